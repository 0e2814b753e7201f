"""How fast the pipeline is, next to the ceiling of the same servers in the same minutes. See docs/benchmarks.md."""
