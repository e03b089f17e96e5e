"""The loops of marching cubes, compiled by numba; import it only where voxels are at hand.

A cube has the centers of eight voxels as its corners. It goes by the name of its far corner, the voxel with the highest
coordinates; corner `dx + 2 * dy + 4 * dz` is there for 7, and for 0 at the voxel before it on all axes. Which corners
are of a label is the label's configuration: a number of 8 bits, one for each corner.

From its far corner each cube has three edges, one back along each axis; no other cube has them there. Where the ends of
an edge differ, the labels at both have a vertex half-way. The vertices on these three edges are numbered when the cube
comes, the others of the cube have come with earlier ones. Cubes at the first planes of a block repeat the voxels of
these planes: they have edges, but are no cubes and have no triangles. Their configurations count from 256 on.

Numbers of vertices are kept for the last two slices, in eight places for each voxel: at `2 * axis + 1` that of the
voxel's own label on its edge back along the axis, at `2 * axis` that of the label at the other end.

Nothing is compiled at import, see `beam_volumes.downsampling_kernels`; as there, indices are unsigned in the innermost
loops. Steps go over a row of cubes, as numba counts references at every call.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

PLACES = 8
"""For the numbers of vertices, of each voxel."""
MOST_STEPS = 16
"""Of a configuration in a table of steps: three for each of at most five triangles."""
CONFIGURATIONS = 512
"""With those that are of no cube."""

Voxels = npt.NDArray[np.uint32]
Configurations = npt.NDArray[np.uint16]
Numbers = npt.NDArray[np.uint64]
Rows = tuple[Any, Any, Any, Any]
"""Where the rows of voxels start that a row of cubes has at its corners 0, 2, 4 and 6."""
Mixed = tuple[Configurations, Configurations, int]
"""Of a row of cubes: configurations of the labels of their far corners, where there are several labels, at how many."""
Output = tuple[Numbers, npt.NDArray[np.uint32], npt.NDArray[np.int16], npt.NDArray[np.uint32]]
"""Of each label where its next vertex, its first and its next triangle stand; numbers of vertices; vertices; faces."""

_ZERO, _ONE, _TWO, _THREE, _FOUR = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_FIVE, _SIX, _SEVEN, _ALL = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(255)
_NO_CUBE = np.uint64(256)
_PLACES, _MOST_STEPS = np.uint64(PLACES), np.uint64(MOST_STEPS)

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")

# Without entries for Python and C, whose compilation counts.
_WITHIN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_part = numba.njit(error_model="numpy", **_WITHIN)


@_kernel
def count(voxels: Voxels, shape: Vec, sizes: Numbers, lowest: Numbers, tallies: Numbers) -> None:
    """Add up what the configurations of each label bring.

    Args:
        voxels: flat, x fastest.
        shape: of the block, XYZ, at least 2 on each axis.
        sizes: what each configuration brings.
        lowest: the lowest bit that is set, of numbers from 0 to 255.
        tallies: that of label k at k - 1, to add to; higher labels are passed by.

    """
    mixed = (np.empty(shape[0], np.uint16), np.empty(shape[0], np.uint16))
    for z in range(shape[2]):
        for y in range(shape[1]):
            rows = _rows(shape, y, z)
            n = _find_mixed(voxels, rows, mixed[0], mixed[1])
            _count_row(voxels, rows, _kind(y, z), (mixed[0], mixed[1], n), (sizes, lowest), tallies)


@_kernel
def extract(voxels: Voxels, shape: Vec, first: int, tables: tuple[Numbers, Numbers, Numbers], output: Output) -> None:
    """Write the surfaces of labels from `first` on, as many as `output` has room for.

    Args:
        voxels: as in `count`.
        shape: as in `count`.
        first: the lowest label.
        tables: `lowest`, as in `count`; how many triangles each configuration has; and where their vertices have their
            numbers, counted from the places of the far corner, in turn for slices of even and of odd z.
        output: to write to; what stands at the numbers does not matter.

    """
    mixed = (np.empty(shape[0], np.uint16), np.empty(shape[0], np.uint16))
    for z in range(shape[2]):
        for y in range(shape[1]):
            rows = _rows(shape, y, z)
            n = _find_mixed(voxels, rows, mixed[0], mixed[1])
            at = (first, y, z, PLACES * shape[0] * (y + shape[1] * (z & 1)))
            _extract_row(voxels, rows, at, (mixed[0], mixed[1], n), tables, output)


@_part
def _rows(shape: Vec, y: int, z: int) -> Rows:
    y_step, z_step = shape[0], shape[0] * shape[1]
    start = y * y_step + z * z_step
    y_step, z_step = y_step if y else 0, z_step if z else 0
    return np.uint64(start - y_step - z_step), np.uint64(start - z_step), np.uint64(start - y_step), np.uint64(start)


@_part
def _kind(y: int, z: int) -> Any:
    return _ZERO if y and z else _NO_CUBE


@_part
def _find_mixed(voxels: Voxels, rows: Rows, configs: Configurations, places: Configurations) -> Any:
    configs[0] = _corners(voxels, rows, _ZERO, _ZERO, voxels[rows[3]])
    # Made into vectors.
    for x in range(_ONE, np.uint64(configs.size)):
        configs[x] = _corners(voxels, rows, x - _ONE, x, voxels[rows[3] + x])
    n = _ZERO
    for x in range(np.uint64(configs.size)):
        # Always written, sometimes kept: whether a cube is mixed can hardly be foretold.
        places[n] = x
        n += np.uint64(configs[x] != 255)
    return n


@_part
def _corners(voxels: Voxels, rows: Rows, w: Any, x: Any, label: Any) -> Any:
    """Return the configuration of a label in the cube between w and x."""
    a, b, c, d = rows
    return (
        np.uint32(voxels[a + w] == label)
        | np.uint32(voxels[a + x] == label) << np.uint32(1)
        | np.uint32(voxels[b + w] == label) << np.uint32(2)
        | np.uint32(voxels[b + x] == label) << np.uint32(3)
        | np.uint32(voxels[c + w] == label) << np.uint32(4)
        | np.uint32(voxels[c + x] == label) << np.uint32(5)
        | np.uint32(voxels[d + w] == label) << np.uint32(6)
        | np.uint32(voxels[d + x] == label) << np.uint32(7)
    )


@_part
def _label_at(voxels: Voxels, rows: Rows, corner: Any, w: Any, x: Any) -> Any:
    near, far = (rows[0], rows[1]) if corner < 4 else (rows[2], rows[3])
    row = far if corner & _TWO else near
    return voxels[row + (x if corner & _ONE else w)]


@_part
def _count_row(
    voxels: Voxels, rows: Rows, kind: Any, mixed: Mixed, tables: tuple[Numbers, Numbers], tallies: Numbers
) -> None:
    configs, places, n = mixed
    sizes, lowest = tables
    labels = np.uint32(tallies.size)
    for i in range(n):
        x = np.uint64(places[i])
        w = x - np.uint64(x > _ZERO)
        its_kind = kind if x else _NO_CUBE
        label, config = voxels[rows[3] + x], np.uint64(configs[x])
        rest = config ^ _ALL
        while True:
            # Less than 0 is a high number: it is neither background nor too high a label.
            index = np.uint32(label - np.uint32(1))
            if index < labels:
                tallies[index] += sizes[config | its_kind]
            if rest == _ZERO:
                break
            label = _label_at(voxels, rows, lowest[rest], w, x)
            config = np.uint64(_corners(voxels, rows, w, x, label))
            rest ^= config


@_part
def _extract_row(
    voxels: Voxels,
    rows: Rows,
    at: tuple[int, int, int, int],
    mixed: Mixed,
    tables: tuple[Numbers, Numbers, Numbers],
    output: Output,
) -> None:
    # All in one: each array that is passed on is counted, and calls from here made it take twice as long.
    configs, places, n = mixed
    lowest, triangles, steps = tables
    state, numbers, vertices, faces = output
    first, y, z, base = np.uint32(at[0]), 2 * at[1], 2 * at[2], np.uint64(at[3])
    kind, table = _kind(y, z), np.uint64((at[2] & 1) * CONFIGURATIONS)
    for i in range(n):
        x = np.uint64(places[i])
        w = x - np.uint64(x > _ZERO)
        its_kind = kind if x else _NO_CUBE
        own = base + x * _PLACES
        label, config = voxels[rows[3] + x], np.uint64(configs[x])
        rest = config ^ _ALL
        while True:
            index = np.uint32(label - first)
            if index < np.uint32(state.shape[0]):
                vertex, start, face = state[index, 0], state[index, 1], state[index, 2]
                is_own = config >> _SEVEN
                if (config >> _SIX ^ is_own) & _ONE:
                    numbers[own + is_own] = vertex - start
                    vertices[vertex, 0], vertices[vertex, 1], vertices[vertex, 2] = np.int64(2 * x) - 1, y, z
                    vertex += _ONE
                if (config >> _FIVE ^ is_own) & _ONE:
                    numbers[own + is_own + _TWO] = vertex - start
                    vertices[vertex, 0], vertices[vertex, 1], vertices[vertex, 2] = np.int64(2 * x), y - 1, z
                    vertex += _ONE
                if (config >> _THREE ^ is_own) & _ONE:
                    numbers[own + is_own + _FOUR] = vertex - start
                    vertices[vertex, 0], vertices[vertex, 1], vertices[vertex, 2] = np.int64(2 * x), y, z - 1
                    vertex += _ONE
                entry = (table + config | its_kind) * _MOST_STEPS
                for _ in range(triangles[config | its_kind]):
                    faces[face, 0] = numbers[own + steps[entry]]
                    faces[face, 1] = numbers[own + steps[entry + _ONE]]
                    faces[face, 2] = numbers[own + steps[entry + _TWO]]
                    face, entry = face + _ONE, entry + _THREE
                state[index, 0], state[index, 2] = vertex, face
            if rest == _ZERO:
                break
            label = _label_at(voxels, rows, lowest[rest], w, x)
            config = np.uint64(_corners(voxels, rows, w, x, label))
            rest ^= config
