"""What a merge of fragments will take, estimated from a listing and a few of the files; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from beam_volumes.geometry import Vec, shape_text
from beam_volumes.map_buffer import read_keys
from beam_volumes.meshing.cell_fragments import meshes_of_fragments
from beam_volumes.meshing.labels import LabelChoice
from beam_volumes.meshing.legacy import SUFFIX, parse_frags_name
from beam_volumes.meshing.levels import coarser
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_input import FragmentFiles
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.multires import encode_fragment
from beam_volumes.storage import Folder
from beam_volumes.storage.store import Entry
from beam_volumes.volume_estimate import PROCESS_BYTES, VCPU_HOUR_USD

_SAMPLES = 3
_SAMPLE_FACES = 100_000
"""Of one file: its labels come in an order that has nothing to do with their size."""

_SURFACES = 4
"""Of memory, in surfaces of one label: read, welded, simplified and encoded."""


class MergeEstimate(NamedTuple):
    """Sums over all files; `largest_surface_bytes` is what the largest file would be as the surface of one label."""

    faces: int
    encoded_bytes: int
    largest_surface_bytes: int
    cpu_seconds: float


@dataclass
class _Measured:
    """What was measured of so many stored bytes: of the finest level, and of the next one for each face of it."""

    stored: float = 0.0
    faces: int = 0
    bytes: int = 0
    surface_bytes: int = 0
    seconds: float = 0.0
    coarse_bytes: int = 0
    coarse_seconds: float = 0.0


def list_files(files: FragmentFiles) -> list[Entry]:
    """Return the files of fragments that are there of those that are read, the smallest first."""
    found = (entry for entry in Folder(files.url).entries() if entry.name.endswith(SUFFIX))
    wanted = None if files.wanted is None else {files.name(cell) for cell in files.wanted.array.tolist()}
    return sorted((e for e in found if wanted is None or e.name in wanted), key=lambda entry: (entry.bytes, entry.name))


def estimate(plan: MeshPlan, choice: LabelChoice, listed: list[Entry]) -> MergeEstimate:
    """Read some labels of a few files, simplify and encode them, and return what that makes of all files.

    Raises:
        SourceError: a file cannot be read.
        CorruptDataError: a file is not what was written.

    """
    stored = sum(entry.bytes for entry in listed)
    picked = {(2 * i + 1) * len(listed) // (2 * _SAMPLES) for i in range(_SAMPLES)} if listed else set()
    of = _Measured()
    for number in sorted(picked):
        _measure(plan, choice, listed[number], of)
    scale = stored / of.stored if of.stored else 0.0
    # Each level is made of what is left of the faces of the one before it.
    shares, share = 0.0, 1.0
    for lod in range(1, plan.num_lods):
        shares += share
        share /= plan.multires.factor_of(lod)
    return MergeEstimate(
        faces=round(of.faces * scale),
        encoded_bytes=round((of.bytes + of.coarse_bytes * shares) * scale),
        largest_surface_bytes=round(of.surface_bytes * listed[-1].bytes / of.stored) if of.stored else 0,
        cpu_seconds=(of.seconds + of.coarse_seconds * shares) * scale,
    )


def _measure(plan: MeshPlan, choice: LabelChoice, entry: Entry, of: _Measured) -> None:
    """Add what is measured of one file, or of the first labels in it."""
    files = plan.fragments
    box = parse_frags_name(entry.name)
    position = next(files.tasks.positions_meeting(box), None) if box else None
    if position is None:
        return
    cell, labels = files.tasks.index(position), read_keys(Folder(files.url), entry.name)
    chosen = labels[choice.listed(labels)].tolist()
    # The first use compiles, which is no part of what a surface takes.
    for mesh in _taken(plan, cell, chosen[:1]):
        _encode(plan, mesh, position)
    seen, faces, started = 0, 0, time.process_time()
    for mesh in _taken(plan, cell, chosen):
        of.bytes += len(encode_fragment(mesh, plan.grid, 0, position).data)
        of.surface_bytes += mesh.vertices.nbytes + mesh.faces.nbytes
        of.seconds += time.process_time() - started
        started = time.process_time()
        of.coarse_bytes += _encode(plan, mesh, position)
        of.coarse_seconds += time.process_time() - started
        seen, faces = seen + 1, faces + len(mesh.faces)
        if faces > _SAMPLE_FACES:
            break
        started = time.process_time()
    of.faces += faces
    of.stored += entry.bytes * (seen / len(chosen) if chosen else 1.0)


def _taken(plan: MeshPlan, cell: int, labels: list[int]) -> Iterator[Mesh]:
    return (mesh for _, mesh in meshes_of_fragments(plan, cell, labels) if len(mesh.faces))


def _encode(plan: MeshPlan, mesh: Mesh, position: Vec) -> int:
    """Simplify a surface as the first coarser level does, and return the bytes of its fragment; 0 without levels."""
    if plan.num_lods == 1:
        return 0
    x, y, z = position
    return len(encode_fragment(coarser(plan, 1, mesh).mesh, plan.grid, 1, (x // 2, y // 2, z // 2)).data)


def summary(plan: MeshPlan, choice: LabelChoice) -> list[tuple[str, str]]:
    """Return what `--plan` prints of a merge, row by row."""
    files = list_files(plan.fragments)
    guess = estimate(plan, choice, files)
    memory = PROCESS_BYTES + (files[-1].bytes if files else 0) + _SURFACES * guess.largest_surface_bytes
    hours = guess.cpu_seconds / 3600
    labels = "all" if choice.labels is None else f"{len(choice.labels):,} listed"
    return [
        ("fragments", plan.fragments.url),
        ("destination", f"{plan.claim.place} ({plan.claim.state})"),
        ("boxes", f"{plan.planned['cells']:,} of {shape_text(plan.cells.cell)}"),
        ("files", f"{len(files):,} of {sum(entry.bytes for entry in files):,} bytes"),
        ("labels", f"{labels}, without {len(choice.exclude):,}"),
        ("cells by level of detail", "; ".join(f"{len(plan.level(lod)):,}" for lod in range(plan.num_lods))),
        ("triangles of the finest level, estimated", f"{guess.faces:,}"),
        ("bytes to write, estimated", f"{guess.encoded_bytes:,}"),
        ("memory per worker, bytes, estimated", f"{memory:,}"),
        ("CPU hours, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]
