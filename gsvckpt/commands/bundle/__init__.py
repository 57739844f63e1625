"""migrate --bundle: a whole voice in one folder."""
