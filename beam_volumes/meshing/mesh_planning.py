"""The steps of planning a meshing run: what its options mean, and what it will take. Nothing is written."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.block_reading import Clock
from beam_volumes.codecs import Array
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Grid, Vec, shape_text
from beam_volumes.meshing.forging import forge_voxels
from beam_volumes.meshing.labels import LabelChoice
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.number_lists import NumberList
from beam_volumes.reading_plan import Lattice
from beam_volumes.sources import Source, is_read_by_chunk, open_reader
from beam_volumes.storage import Folder, normalize
from beam_volumes.volume_estimate import PROCESS_BYTES, VCPU_HOUR_USD

_CELL: Vec = (256, 256, 256)
_LEAST_CELL = 8
_VOXEL_BYTES = 40
"""Of a cell being meshed, beside its voxels as they are stored: numbers, raw surfaces, and one being simplified."""

_MOST_BLOCK_VOXELS = 2**24
_SAMPLES = 3
_SAMPLE: Vec = (96, 96, 96)

_LEVELS_SHARE = 0.5
"""What the levels above, encoding and writing take, of what the finest level takes."""


class CellSizes(NamedTuple):
    """The cells, and how each is read."""

    cells: Grid
    block: Lattice

    def tasks(self, bounds: Box) -> Grid:
        """Return the boxes of voxels that stand for the cells, in the same order."""
        return Grid(bounds, self.cells.cell, bounds.start)


def plan_cells(
    source: Source, bounds: Box, cell_size: Vec | None, memory_target: int, *, close_borders: bool
) -> CellSizes:
    """Cut `bounds` into cells, all of one size.

    Args:
        source: the layer.
        bounds: voxels.
        cell_size: the most voxels of a cell along XYZ; None for as many as fit the memory, up to 256. One more where a
            cell would be left with nothing but the closed border of objects.
        memory_target: bytes that one worker may use.
        close_borders: whether objects are closed where they meet the bounds.

    Raises:
        OptionError: a cell does not fit the memory, or there is nothing to mesh.

    """
    reach = 1 if close_borders else 0
    cubes = Box(_vec(n - reach for n in bounds.start), _vec(n - 1 + reach for n in bounds.stop))
    if not cubes.voxels:
        raise OptionError(
            f"--bounds: expected two voxels or more along each axis without --close_borders, came {bounds.shape}: "
            "there is nothing between them"
        )
    wanted = cell_size or _fitting(source, memory_target)
    if cell_size and cell_bytes(source, cell_size) + PROCESS_BYTES > memory_target:
        raise OptionError(
            f"--cell_size: expected cells that fit --memory_target={memory_target:,}, came {shape_text(cell_size)}, "
            f"which takes {cell_bytes(source, cell_size) + PROCESS_BYTES:,} bytes: make them smaller, or raise "
            "--memory_target"
        )
    # Planes between cells go through centers of voxels: the first one is that of the voxel before the bounds.
    origin = _vec(n - 1 for n in bounds.start)
    counts = [math.ceil(n / w) for n, w in zip(bounds.shape, wanted, strict=True)]
    ends = [b - o for b, o in zip(cubes.stop, origin, strict=True)]
    cell = _vec(min(max(-(-end // count), 1), w + 1) for end, count, w in zip(ends, counts, wanted, strict=True))
    if close_borders:
        cell = _vec(_without_rest(n, length) for n, length in zip(bounds.shape, cell, strict=True))
    else:
        # Of cells of one cube the first would be that of a closed border.
        cell = _vec(max(length, 2) for length in cell)
    stored = Lattice(source.chunk, source.chunk_origin)
    grown = stored.grown(bounds, lambda shape: math.prod(shape) <= _MOST_BLOCK_VOXELS)
    return CellSizes(Grid(cubes, cell, origin), stored if is_read_by_chunk(source) else grown)


def _without_rest(voxels: int, length: int) -> int:
    """Return the length of cells, or a little more where they would fill all voxels: a closed border is one voxel more.

    It would have a cell of its own, and there would be no box of voxels for its fragments to be named by.
    """
    while voxels % length == 0:
        length += 1
    return length


def cell_bytes(source: Source, cell: Vec) -> int:
    """Return the bytes that meshing a cell takes."""
    return math.prod(n + 1 for n in cell) * (np.dtype(source.data_type).itemsize + _VOXEL_BYTES)


def _fitting(source: Source, memory_target: int) -> Vec:
    cell = _CELL
    while cell_bytes(source, cell) + PROCESS_BYTES > memory_target:
        if cell[0] <= _LEAST_CELL:
            raise OptionError(
                f"--memory_target: expected at least {cell_bytes(source, cell) + PROCESS_BYTES:,} bytes for a cell of "
                f"{shape_text(cell)} voxels, came {memory_target:,}: raise it"
            )
        cell = _vec(n // 2 for n in cell)
    return cell


def choose(dust_threshold: int, labels: str | None, exclude: str | None) -> LabelChoice:
    """Return which labels are meshed, of options that hold a list of numbers, or name a file of one.

    Raises:
        OptionError: a list, or a file, is none of labels.

    """
    wanted = NumberList.of(_labels("labels", labels)) if labels else None
    return LabelChoice(dust_threshold, wanted, NumberList.of(_labels("exclude", exclude) if exclude else ()))


def labels_of(option: str, text: str) -> list[int]:
    """Return the labels that an option lists; see `choose`."""
    found: list[int] = _labels(option, text).tolist()
    return found


def choice_identity(choice: LabelChoice) -> str:
    """Return a hash of the labels that are listed: a file may change while its name stays."""
    listed = [b"all" if choice.labels is None else choice.labels.data, choice.exclude.data]
    return hashlib.sha256(b"|".join(listed)).hexdigest()[:16]


def _labels(option: str, text: str) -> npt.NDArray[np.uint64]:
    """Return the labels of a list such as 1,2,3, or of a file with numbers in it, one a line or as JSON."""
    source = text
    if not re.fullmatch(r"[0-9]+(\s*,\s*[0-9]+)*", text.strip()):
        place, _, name = normalize(text).rpartition("/")
        data = Folder(place).read(name)
        if data is None:
            raise OptionError(_no_labels(option, text))
        source = data.decode(errors="replace").strip().removeprefix("[").removesuffix("]")
    words = [word for word in re.split(r"[\s,]+", source.strip()) if word]
    wrong = [word for word in words if not word.isascii() or not word.isdigit() or int(word) >= 2**64]
    if wrong or not words:
        raise OptionError(
            f"--{option}: expected whole numbers under 2^64, separated by commas or line ends, came "
            f"{json.dumps(wrong[0][:40]) if wrong else 'nothing'} in {text[:80]!r}"
        )
    found = np.unique(np.array([int(word) for word in words], np.uint64))
    if found[0] == 0:
        raise OptionError(f"--{option}: expected labels of objects, came 0, which is background: leave it out")
    return found


def _no_labels(option: str, text: str) -> str:
    """Return why a text is refused that is neither a list of labels nor the name of a file."""
    expected = f"--{option}: expected labels such as 17,42, or a file of them, came"
    if "," not in text and not text.lstrip()[:1].isdigit():
        return f"{expected} {text!r}, which does not exist"
    wrong = next(item for item in text.split(",") if not re.fullmatch(r"\s*[0-9]+\s*", item))
    return f"{expected} {wrong[:40]!r} in {text[:80]!r}: correct it; there is no file of that name, either"


def summary(plan: MeshPlan, choice: LabelChoice) -> list[tuple[str, str]]:
    """Return what `--plan` prints, row by row."""
    source, cells, block = plan.source, plan.cells, plan.voxels.block.cell
    seconds, faces = _estimate(plan)
    voxel_bytes = np.dtype(source.data_type).itemsize
    # Where only some files are made anew, what is counted for them.
    share = plan.planned["counted"] / len(cells)
    hours = seconds * share / 3600
    listed = "all" if choice.labels is None else f"{len(choice.labels):,} listed"
    return [
        ("layer", f"{source.url}, mip {source.mip}"),
        ("destination", f"{plan.claim.place} ({plan.claim.state})"),
        ("voxels", f"{plan.bounds} = {shape_text(plan.bounds.shape)} of {source.data_type}"),
        (
            "cells",
            f"{len(cells):,} of {shape_text(cells.cell)}, read in blocks of {shape_text(block)}",
        ),
        ("labels", f"{listed}, from {choice.dust_threshold:,} voxels on, without {len(choice.exclude):,}"),
        ("cells by level of detail", "; ".join(f"{len(plan.level(lod)):,}" for lod in range(plan.num_lods))),
        *([("boxes whose files are missing", f"{len(plan.remade.cells):,}")] if plan.remade else []),
        ("bytes of voxels, read twice", f"{round(plan.bounds.voxels * voxel_bytes * share):,}"),
        ("triangles of the finest level, estimated", f"{faces:,}"),
        ("memory per worker, bytes", f"{PROCESS_BYTES + cell_bytes(source, cells.cell):,}"),
        ("CPU hours, estimated", f"{hours:,.4f}"),
        ("Dataflow USD, at an assumed price", f"{hours * VCPU_HOUR_USD:,.4f} ({VCPU_HOUR_USD} a vCPU hour)"),
    ]


def _estimate(plan: MeshPlan) -> tuple[float, int]:
    """Mesh a few boxes, spread over the volume, and return CPU seconds and triangles of the whole."""
    # The first use compiles, which is no part of what a voxel takes.
    _forge(plan, np.ones((2, 2, 2), plan.source.data_type, order="F"))
    reader = open_reader(plan.source, fill_missing=plan.fill_missing)
    bounds, seconds, faces, voxels = plan.bounds, 0.0, 0, 0
    shape = _vec(min(n, s) for n, s in zip(bounds.shape, _SAMPLE, strict=True))
    for share in range(_SAMPLES):
        free = [n - s for n, s in zip(bounds.shape, shape, strict=True)]
        start = _vec(b + n * (2 * share + 1) // (2 * _SAMPLES) for b, n in zip(bounds.start, free, strict=True))
        started = time.process_time()
        values, _ = reader.read(Box.of_shape(shape, start))
        faces += _forge(plan, np.asfortranarray(values[..., 0]))
        seconds += time.process_time() - started
        voxels += math.prod(shape)
    more = 1 + (plan.num_lods > 1) * _LEVELS_SHARE
    return seconds * more * bounds.voxels / voxels, faces * bounds.voxels // voxels


def _forge(plan: MeshPlan, voxels: Array) -> int:
    labels = np.unique(voxels).astype(np.uint64)
    surfaces = forge_voxels(plan, voxels, labels[labels != 0], (0, 0, 0), Clock())
    return sum(len(surface.mesh.faces) for surface in surfaces)


def _vec(values: Iterable[int]) -> Vec:
    x, y, z = values
    return (x, y, z)
