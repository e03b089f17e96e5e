"""Checks on what is asked of a proofreading server and on what it answers: it answers wrong questions without error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from beam_volumes.errors import OptionError, ServerError

Ids = npt.NDArray[np.uint64]

_LAYER_SHIFT = np.uint64(56)
"""The layer is the highest 8 bits of an id."""

_YOUNG_SECONDS = 600
"""Edits of the last minutes may still be being written."""

_CLOCK_GRAIN_SECONDS = 0.001
"""Bigtable keeps times in milliseconds, and PyChunkGraph's look-up includes the one at which the timestamp falls."""

_IDS_SHOWN = 5


@dataclass(frozen=True)
class RootQuestion:
    """Which ancestor of an id is asked for.

    Attributes:
        timestamp: UNIX second.
        stop_layer: None for roots; else the layer at which the way up ends.
        n_layers: the layer of roots.

    """

    timestamp: int
    stop_layer: int | None
    n_layers: int

    @property
    def layers(self) -> range:
        """The layers on which answers may lie.

        A graph leaves out a node that would have a single child, so that the first ancestor at or above a stop layer
        may lie above it; only layer 2 has a node for each supervoxel.
        """
        if self.stop_layer is None:
            return range(self.n_layers, self.n_layers + 1)
        top = self.stop_layer if self.stop_layer <= 2 else max(self.n_layers, self.stop_layer)
        return range(self.stop_layer, top + 1)


def layers_of(ids: Ids) -> Ids:
    """Return the layer of each id, uint64."""
    return ids >> _LAYER_SHIFT


def check_roots(asked: Ids, body: bytes, question: RootQuestion, where: str) -> Ids:
    """Check the answer to a question, and return it as uint64, one for each of `asked`.

    Args:
        asked: uint64.
        body: little-endian uint64.
        question: what was asked.
        where: server and box, for messages.

    Raises:
        ServerError: an answer is missing, too many, 0, or on a layer where it cannot be.

    """
    at = f"{where}, timestamp {question.timestamp}"
    if len(body) != 8 * len(asked):
        raise ServerError(
            f"{at}: expected {8 * len(asked)} bytes, 8 for each of {len(asked)} ids (the first {_listed(asked)}), "
            f"came {len(body)}"
        )
    roots = np.frombuffer(body, "<u8").astype(np.uint64)
    if (zero := roots == 0).any():
        raise ServerError(
            f"{at}: expected an id for each supervoxel, came 0 for {zero.sum()} of {len(asked)}: "
            f"{_pairs(asked, roots, zero)}; the graph does not know them at this time: is data_dir the watershed that "
            "it was made from, and had it been ingested by then?"
        )
    layers, legal = layers_of(roots), question.layers
    if (wrong := (layers < legal.start) | (layers >= legal.stop)).any():
        expected = f"layer {legal[0]}" if len(legal) == 1 else f"layers {legal[0]} to {legal[-1]}"
        raise ServerError(
            f"{at}: expected ids on {expected}, came {wrong.sum()} of {len(asked)} on layers "
            f"{', '.join(str(n) for n in np.unique(layers[wrong]))}: {_pairs(asked, roots, wrong)}; choose a "
            "timestamp after the graph had been ingested"
        )
    return roots


def check_ages(roots: Ids, created: npt.NDArray[np.float64], timestamp: int, where: str) -> None:
    """Check that roots existed at a time.

    Args:
        roots: uint64.
        created: UNIX second at which each of them was made.
        timestamp: for which they were asked.
        where: server and box, for messages.

    Raises:
        ServerError: one is younger.

    """
    young = created > timestamp + _CLOCK_GRAIN_SECONDS
    if young.any():
        pairs = zip(roots[young][:_IDS_SHOWN], created[young], strict=False)
        raise ServerError(
            f"{where}, timestamp {timestamp}: expected roots of that time, but {young.sum()} of {len(roots)} looked at "
            f"were made later: {', '.join(f'{root} at {second:.3f}' for root, second in pairs)}; the server does not "
            "heed the timestamp"
        )


def check_timestamp(oldest: float | None, timestamp: int | None, now: float) -> list[str]:
    """Check the time at which a volume is to be read, and return what to warn of.

    Args:
        oldest: UNIX second from which on the graph is whole; None where the server does not tell.
        timestamp: UNIX second.
        now: UNIX second.

    Raises:
        OptionError: there is none, or the graph has no settled state at that time.

    """
    if timestamp is None:
        raise OptionError(
            "--timestamp: expected a UNIX second, the moment whose state of the volume is wanted, none came: "
            f"now is {int(now)}, and ten minutes ago was {int(now) - _YOUNG_SECONDS}"
        )
    if timestamp > now:
        raise OptionError(
            f"--timestamp: expected a UNIX second in the past, came {timestamp} ({_utc(timestamp)}), which is in the "
            f"future: now is {int(now)}"
        )
    if oldest is not None and timestamp < oldest:
        raise OptionError(
            f"--timestamp: expected a UNIX second from {math.ceil(oldest)} ({_utc(math.ceil(oldest))}) on, when the "
            f"graph had been ingested, came {timestamp} ({_utc(timestamp)}): before, there were no roots"
        )
    warnings = []
    if oldest is None:
        warnings.append(
            "the server does not tell when its graph was ingested: only the layers of its answers show whether it was "
            f"at --timestamp={timestamp}"
        )
    if now - timestamp < _YOUNG_SECONDS:
        warnings.append(
            f"--timestamp={timestamp} was {int(now - timestamp)} s ago: edits of the last {_YOUNG_SECONDS // 60} "
            "minutes may still be being written, so that parts of the volume may be of different states"
        )
    return warnings


def _utc(second: float) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "no date; milliseconds?"


def _listed(ids: Ids) -> str:
    return ", ".join(str(n) for n in ids[:_IDS_SHOWN])


def _pairs(asked: Ids, roots: Ids, which: npt.NDArray[np.bool_]) -> str:
    pairs = zip(asked[which][:_IDS_SHOWN], roots[which], strict=False)
    return ", ".join(f"{a} -> {b}" for a, b in pairs) + (", ..." if which.sum() > _IDS_SHOWN else "")
