"""The demo: the cities of the world, rebuilt under a new mapping while a searcher keeps searching."""
