"""Side-by-side runs against the tools that labs use today; `python -m benchmarks.export`."""
