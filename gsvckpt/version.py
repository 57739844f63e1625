"""The version, in a module of its own, so that others can import it without the package's face."""

__version__ = "0.1.0"
