"""Results as people and scripts see them: tables, JSON, progress. The only place that imports rich."""
