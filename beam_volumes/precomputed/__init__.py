"""Neuroglancer's Precomputed format: info, chunk names and ids, shards."""
