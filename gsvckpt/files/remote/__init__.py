"""Files on other machines, through fsspec. Imported only where a path is a URL."""
