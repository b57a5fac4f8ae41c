"""Architectures, one file per family; every module here registers its builders on import."""
