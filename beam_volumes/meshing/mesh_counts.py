"""What meshing has done, counted; of one element, or of many together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

_PEAK = "peak_memory_bytes"
_SHOWN = 1000
"""Of what is listed one by one."""


@dataclass(frozen=True)
class MeshCounts:
    """Sums, but for the peak of memory.

    Attributes:
        counted: cells whose labels were counted; of these `empty` hold no label.
        pairs: of a label and a cell that holds it; `pairs_added` arrived where they are added up, `pairs_chosen` are of
            labels that are meshed, and `pairs_meshed` arrived at their cell.
        labels: that are meshed; `dust` and `excluded` are not.
        cells: that were meshed; `parts` are the elements of the levels above.
        reused: elements that were taken up from an interrupted run.
        voxels_read: once for the counts, once more for the surfaces.
        raw_faces: triangles of marching cubes.
        faces: triangles by level of detail.
        pieces, joined: surfaces that were sent up a level, and that arrived there.
        fragments: that were sent to shards, by level of detail.
        files, file_bytes: that were written by cells.
        crowded: edges with more than two triangles after simplification.
        fell_back: surfaces that were simplified by the other simplifier.
        clamped: vertices outside of their cell.
        stand_ins: fragments that are a tetrahedron of one quantum, as all their triangles were smaller than that.
        failed: fragments that could not be encoded.
        failures: some of these, in words.

    """

    counted: int = 0
    empty: int = 0
    pairs: int = 0
    pairs_added: int = 0
    pairs_chosen: int = 0
    pairs_meshed: int = 0
    labels: int = 0
    dust: int = 0
    excluded: int = 0
    cells: int = 0
    parts: int = 0
    reused: int = 0
    voxels_read: int = 0
    raw_faces: int = 0
    faces: tuple[int, ...] = ()
    pieces: int = 0
    joined: int = 0
    fragments: tuple[int, ...] = ()
    files: int = 0
    file_bytes: int = 0
    crowded: int = 0
    fell_back: int = 0
    clamped: int = 0
    stand_ins: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    read_seconds: float = 0.0
    wait_seconds: float = 0.0
    count_seconds: float = 0.0
    surface_seconds: float = 0.0
    weld_seconds: float = 0.0
    simplify_seconds: float = 0.0
    encode_seconds: float = 0.0
    ids_asked: int = 0
    requests: int = 0
    retries: int = 0
    peak_memory_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MeshCounts:
        """Return the counts that `to_json` has written."""
        fields_read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields_read)


def merge_mesh_counts(parts: Iterable[MeshCounts]) -> MeshCounts:
    """Return the counts of many elements together."""
    parts = list(parts)
    values: dict[str, Any] = {}
    for field in fields(MeshCounts):
        values[field.name] = _merged(field.name, [getattr(part, field.name) for part in parts])
    return MeshCounts(**values)


def _merged(name: str, values: list[Any]) -> Any:
    if name == _PEAK:
        return max(values, default=0)
    if name == "failures":
        return tuple(sorted({text for texts in values for text in texts})[:_SHOWN])
    if name in ("faces", "fragments"):
        longest = max((len(v) for v in values), default=0)
        return tuple(sum(v[k] for v in values if k < len(v)) for k in range(longest))
    return sum(values)
