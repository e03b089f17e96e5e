"""One module per command: `python -m pipelines.export --help`."""
