"""A function or a model applied to volumes in chunks: what a run of apply reads, calls, reduces and writes."""
