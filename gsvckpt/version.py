"""The version, apart from the package's face, which everything else stands behind."""

__version__ = "0.1.0"
