"""What a pipeline asks the server of a proofreading volume before it starts, and how many workers may ask more."""

from __future__ import annotations

import sys
from typing import NamedTuple

from beam_volumes import export_planning as planning
from beam_volumes.graphene import GraphInfo
from beam_volumes.places import is_proofreading
from beam_volumes.volume_plan import Server
from pipelines.running import Setting
from pipelines.shared_options import Asking


class Asked(NamedTuple):
    """What the server says; `graph` and `server` are None for any other volume, `workers` may be fewer than planned."""

    graph: GraphInfo | None
    server: Server | None
    warnings: list[str]
    workers: int | None


def ask(url: str, question: tuple[int | None, int | None] | None, config: Asking, setting: Setting) -> Asked:
    """Ask the server of a proofreading volume, if `url` is one; `question` is a timestamp and a layer.

    Raises:
        VolumeError: see `export_planning.ask_server`.

    """
    workers = setting.workers
    if not is_proofreading(url):
        return Asked(None, None, [], workers)
    processes = getattr(config, "processes", 0)
    if setting.local and question and not processes:
        workers = min(workers or 1, config.max_requests_in_flight, config.max_ids_per_second or sys.maxsize)
    share = workers if question else 1
    limits = planning.share_of_limits(config.max_requests_in_flight, config.max_ids_per_second, share)
    graph, server, warnings = planning.ask_server(url, question, config.token_env, limits)
    return Asked(graph, server, warnings, workers)
