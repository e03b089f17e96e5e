"""Commands: one module each, with its Config, how its job is wired, and a `main`."""

import logging


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is something else than Beam's note, when it is imported, that BigQuery could not be used."""
    return not str(record.msg).startswith("apitools not found")


logging.getLogger().addFilter(_is_news)
