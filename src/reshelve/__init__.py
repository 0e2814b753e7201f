"""Reshelve: rebuild a search index from its source of truth while people use it."""

__version__ = "0.1.0"
