"""Reading and writing pickles without importing, calling or instantiating anything that they name."""
