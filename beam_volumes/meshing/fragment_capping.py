"""Fragments under a number of bytes: browsers decode one as a whole, and die of very large ones.

At the finest level nothing may be lost: an object with a fragment that is too large gets one more level, whose cells
are octants of those before. At the levels above it, fragments that are too large are simplified. Fragments are taken
one by one; what two of them have in common stays common, as everything is done in their quantized coordinates:
triangles are cut at the planes between octants, and the middle of a cell, which is half a quantum under the coordinate
that readers take for it, becomes the end of one octant and the start of the next.

All cells of the finest level are split, not only those with too much: readers that want a level take the fragments of
that level, in cells of one size, and take them for the whole object.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from beam_volumes.errors import DestinationError
from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh import UNITS, Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires import (
    QuantizedMesh,
    decode_fragment,
    encode_quantized,
    split_octants,
    welded,
)
from beam_volumes.meshing.multires_kernels import find_octants
from beam_volumes.storage.remote import local_failure

Simplify = Callable[[Mesh, tuple[float, float, float], int], Mesh]
"""Takes a mesh, the size in nm of 16 of its units along XYZ, and how many triangles to aim at; open borders must stay
as they are. The units are quanta here."""

_MOST_LEVELS = 4
"""That are added. Each makes four times as many fragments of a surface, a fourth as large."""

_MOST_TRIALS = 8
# Fewer triangles take more bytes each: what seems to do is too much, and where little is missing, little helps little.
_MARGIN = 0.9
_LEAST_STEP = 0.85


class CellData(NamedTuple):
    """A fragment, and the position of its cell in the grid of the layer, in cells of its level."""

    position: Vec
    data: bytes


class StoredCell(NamedTuple):
    """A fragment in a file, `size` bytes from `start` on; `position` as in `CellData`."""

    position: Vec
    start: int
    size: int


class FragmentFile(AbstractContextManager["FragmentFile"]):
    """Fragments in a file in the temporary folder (TMPDIR), which has no name, so that nothing of it stays."""

    def __init__(self) -> None:
        self._end = 0

    def __enter__(self) -> FragmentFile:
        """Make the file."""
        self._file = tempfile.TemporaryFile(prefix="beam-volumes-")
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self._file.close()

    def add(self, cell: CellData) -> StoredCell:
        """Write a fragment.

        Raises:
            DestinationError: it cannot be written.

        """
        try:
            self._file.seek(self._end)
            self._file.write(cell.data)
            self._file.flush()
        except OSError as error:
            reason, advice = local_failure(error)
            raise DestinationError(f"fragments to split: expected to keep them, came {reason}: {advice}") from error
        stored = StoredCell(cell.position, self._end, len(cell.data))
        self._end += stored.size
        return stored

    def read(self, cell: StoredCell) -> bytes:
        """Return the bytes of a fragment."""
        self._file.seek(cell.start)
        return self._file.read(cell.size)


class CappedObject(NamedTuple):
    """The fragments of an object after capping.

    Attributes:
        grid: that they are in; it has cells of half the length for each level that was added.
        lods: from the finest level of detail on, in any order each.
        added_lods: how many levels were added.
        simplified: how many fragments were simplified.
        over_cap: how many fragments are still larger than they should be.

    """

    grid: MeshGrid
    lods: list[list[StoredCell]]
    added_lods: int
    simplified: int
    over_cap: int


def split_fragments(
    fragments: Iterable[tuple[int, CellData]],
    num_lods: int,
    grid: MeshGrid,
    max_fragment_bytes: int,
    simplify: Simplify,
    file: FragmentFile,
) -> CappedObject:
    """Bring the fragments of one object under a size; whole levels stay as they are where nothing is larger.

    Memory: one fragment, decoded, and some 300 bytes for each. The file takes all of them, and for each level that is
    added those of the finest one twice more.

    Args:
        fragments: with their levels of detail, of which 0 is the finest.
        num_lods: how many levels there are.
        grid: that they are in.
        max_fragment_bytes: at most.
        simplify: what makes a mesh of fewer triangles.
        file: takes the fragments.

    Raises:
        DestinationError: the file cannot be written.

    """
    kept: list[list[StoredCell]] = [[] for _ in range(num_lods)]
    simplified = 0

    def fitted(cell: CellData, lod: int) -> StoredCell:
        nonlocal simplified
        if len(cell.data) > max_fragment_bytes:
            cell = cell._replace(data=fit_fragment(cell.data, grid, lod, max_fragment_bytes, simplify))
            simplified += 1
        return file.add(cell)

    for lod, cell in fragments:
        kept[lod].append(fitted(cell, lod) if lod else file.add(cell))
    added = 0
    while added < _MOST_LEVELS and _over(kept[0], max_fragment_bytes) and not any(n % 2 for n in grid.cell):
        finer: list[StoredCell] = []
        parents: list[StoredCell] = []
        grid = grid.halved()
        for stored in kept[0]:
            parent, children = halve_fragment(CellData(stored.position, file.read(stored)), grid.bits)
            parents.append(fitted(CellData(stored.position, parent), 1))
            finer += map(file.add, children)
        kept = [finer, parents, *kept[1:]]
        added += 1
    return CappedObject(grid, kept, added, simplified, sum(_over(level, max_fragment_bytes) for level in kept))


def _over(level: Sequence[StoredCell], max_fragment_bytes: int) -> int:
    return sum(cell.size > max_fragment_bytes for cell in level)


def halve_fragment(cell: CellData, bits: int) -> tuple[bytes, list[CellData]]:
    """Return a fragment of level 0 as one of level 1, and those of level 0 in the cells of half the length within it.

    Both show what the fragment shows; vertices at the middle of the cell move by half a quantum in the latter.
    """
    whole = split_octants(decode_fragment(cell.data, bits), bits)
    if not len(whole.faces):
        return cell.data, []
    children = []
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    for octant, part in _octants(whole, middle):
        upper = np.array([octant & 1, octant >> 1 & 1, octant >> 2 & 1])
        # The middle is 2 * middle = top + 1 on the scale of the lower half, and 1 on that of the upper one.
        doubled = 2 * part.quanta - upper * top
        doubled = np.where(part.quanta == middle, top * (1 - upper), doubled).astype(np.int32)
        x, y, z = (2 * p + int(u) for p, u in zip(cell.position, upper, strict=True))
        data = encode_quantized(QuantizedMesh(doubled, part.faces), bits).data
        children.append(CellData((x, y, z), data))
    return encode_quantized(whole, bits).data, children


def fit_fragment(data: bytes, grid: MeshGrid, lod: int, max_fragment_bytes: int, simplify: Simplify) -> bytes:
    """Return a fragment of a level over 0 that is no larger than it should be, or else as small as it can be made.

    It is simplified octant by octant, so that these meet finer levels as they did. Where the borders between them take
    too many bytes, it is simplified as a whole, and cut into octants again.
    """
    whole = split_octants(decode_fragment(data, grid.bits), grid.bits)
    smallest = data
    for parts in ([part for _, part in _octants(whole, grid.middle)], [whole]):
        if len(smallest) > max_fragment_bytes:
            fitted = _fitted(parts, grid, lod, (len(data), max_fragment_bytes), simplify)
            smallest = min(smallest, fitted or data, key=len)
    return smallest


def _fitted(
    parts: Sequence[QuantizedMesh], grid: MeshGrid, lod: int, sizes: tuple[int, int], simplify: Simplify
) -> bytes:
    """Return a fragment of fewer and fewer triangles, until it is small enough or no more can go; empty where none can.

    `sizes` are what the fragment that the parts are of has, and what it should have at most, in bytes.
    """
    size, most = sizes
    x, y, z = (n * UNITS for n in grid.quantum_nm(lod))
    share, faces, data = 1.0, sum(len(part.faces) for part in parts), b""
    for _ in range(_MOST_TRIALS):
        share *= min(_MARGIN * most / size, _LEAST_STEP)
        simplified = _joined([simplify(Mesh(*part), (x, y, z), int(share * len(part.faces))) for part in parts])
        if not 0 < len(simplified.faces) < faces:
            break
        # A vertex that was moved may have left the cell, or its octant.
        inside = QuantizedMesh(np.clip(simplified.vertices, 0, grid.top), simplified.faces)
        data = encode_quantized(split_octants(inside, grid.bits), grid.bits).data
        size, faces = len(data), len(simplified.faces)
        if size <= most:
            break
    return data


def _octants(mesh: QuantizedMesh, middle: int) -> Iterator[tuple[int, QuantizedMesh]]:
    """Yield the triangles of each octant of a cell that has any, and its number, x + 2 y + 4 z."""
    octants = find_octants(mesh.quanta, mesh.faces, middle)
    for octant in np.unique(octants).tolist():
        yield octant, welded(QuantizedMesh(mesh.quanta, mesh.faces[octants == octant]))


def _joined(parts: Sequence[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + np.uint32(start) for part, start in zip(parts, starts, strict=False)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))
