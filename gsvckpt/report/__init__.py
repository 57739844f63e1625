"""Show results to people and scripts: tables, JSON, progress. The only place that imports rich."""
