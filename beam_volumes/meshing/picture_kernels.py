"""The loops that draw meshes, compiled by numba; import it only where there is something to draw.

Triangles go through a z-buffer one by one. Corners are put on a grid of 1/256 pixel, and what is inside is decided in
integers: triangles with a common edge leave no pixel between them, whatever way they are turned. What is seen is shaded
afterwards, once for each pixel.

Directions are those of the camera: x to the right, y down, z away from it. Nothing is compiled at import, see
`beam_volumes.downsampling_kernels`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SAMPLES = 2
"""Along each side of a pixel of the picture."""

_STEPS = 256
"""Of the grid, per sample."""

_FACING_AWAY = np.uint32(1 << 31)
_SCALE = np.float32(32_000)
"""Of a component of a normal, which is kept in 16 bits."""

_BEHIND = np.float32(0.25)
"""How much farther a surface counts that is seen from within: that of a neighbour, at the same place, is in front."""

_REACH = np.float32(4)
"""How steeply an occluder may stand above a place: the square of height over distance."""

_EDGE = np.float32(0.45)
"""How dark it is behind the edge of what is in front."""

_LEVELS = 8_192
"""Of linear light; less than one of sRGB everywhere."""

_kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
_step = numba.njit(nogil=True, error_model="numpy")


class Seen(NamedTuple):
    """What is nearest at each sample: arrays of (rows, columns).

    Attributes:
        depths: float32, in samples; infinite where there is nothing.
        meshes: uint32, the number of the mesh; the highest bit where it is seen from within.
        normals: int16, (rows, columns, XY), of the surface; the third component points to the camera.

    """

    depths: Floats
    meshes: npt.NDArray[np.uint32]
    normals: npt.NDArray[np.int16]


@_kernel
def project(vertices: Floats, camera: npt.NDArray[np.float64]) -> tuple[Any, Floats]:
    """Return the places of vertices: int64 (vertices, XY) on the grid, and float32 depths in samples.

    Args:
        vertices: (vertices, XYZ).
        camera: (3, 4), a rotation, scaled, and a shift, into samples.

    """
    places = np.empty((len(vertices), 2), np.int64)
    depths = np.empty(len(vertices), np.float32)
    for i in range(len(vertices)):
        x, y, z = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        for k in range(2):
            place = camera[k, 0] * x + camera[k, 1] * y + camera[k, 2] * z + camera[k, 3]
            places[i, k] = np.int64(np.floor(place * _STEPS + 0.5))
        depths[i] = camera[2, 0] * x + camera[2, 1] * y + camera[2, 2] * z + camera[2, 3]
    return places, depths


@_kernel
def vertex_normals(vertices: Floats, faces: npt.NDArray[np.uint32], camera: npt.NDArray[np.float64]) -> Floats:
    """Return the mean direction of the faces at each vertex, by area: (vertices, XYZ), length 1 or 0."""
    sums = np.zeros((len(vertices), 3), np.float64)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = _minus(vertices, b, a)
        vx, vy, vz = _minus(vertices, c, a)
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            sums[corner, 0] += nx
            sums[corner, 1] += ny
            sums[corner, 2] += nz
    normals = np.zeros((len(vertices), 3), np.float32)
    for i in range(len(vertices)):
        x, y, z = sums[i, 0], sums[i, 1], sums[i, 2]
        length = np.sqrt((camera[0, 0] ** 2 + camera[0, 1] ** 2 + camera[0, 2] ** 2) * (x * x + y * y + z * z))
        if length > 0:
            for k in range(3):
                normals[i, k] = (camera[k, 0] * x + camera[k, 1] * y + camera[k, 2] * z) / length
    return normals


@_step
def _minus(vertices: Floats, a: int, b: int) -> tuple[float, float, float]:
    return (
        np.float64(vertices[a, 0]) - np.float64(vertices[b, 0]),
        np.float64(vertices[a, 1]) - np.float64(vertices[b, 1]),
        np.float64(vertices[a, 2]) - np.float64(vertices[b, 2]),
    )


@_kernel
def draw(
    faces: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    depths: Floats,
    normals: Floats,
    mesh: int,
    seen: tuple[Floats, npt.NDArray[np.uint32], npt.NDArray[np.int16]],
) -> None:
    """Put the triangles of mesh number `mesh` in front of what is behind them."""
    rows, columns = seen[0].shape
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = places[a, 0], places[a, 1], places[b, 0], places[b, 1], places[c, 0], places[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        tag = np.uint32(mesh)
        sign = np.float32(1)
        farther = np.float32(0)
        if area > 0:
            # y goes down: what is counterclockwise to the eye has an area under 0.
            tag |= _FACING_AWAY
            sign, farther = np.float32(-1), _BEHIND
        else:
            b, c = c, b
            bx, by, cx, cy = cx, cy, bx, by
            area = -area
        low_x, high_x = _samples(min(ax, bx, cx), max(ax, bx, cx), columns)
        low_y, high_y = _samples(min(ay, by, cy), max(ay, by, cy), rows)
        one = np.float32(1) / np.float32(area)
        half = _STEPS // 2
        for row in range(low_y, high_y):
            y = row * _STEPS + half
            x = low_x * _STEPS + half
            # Twice the areas of the triangles that the sample makes with the edges across from a, b and c.
            in_a = (cx - bx) * (y - by) - (cy - by) * (x - bx)
            in_b = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
            in_c = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            for column in range(low_x, high_x):
                if (in_a | in_b | in_c) >= 0:
                    u, v, w = np.float32(in_a) * one, np.float32(in_b) * one, np.float32(in_c) * one
                    depth = u * depths[a] + v * depths[b] + w * depths[c] + farther
                    if depth < seen[0][row, column]:
                        seen[0][row, column] = depth
                        seen[1][row, column] = tag
                        for k in range(2):
                            normal = u * normals[a, k] + v * normals[b, k] + w * normals[c, k]
                            seen[2][row, column, k] = np.int16(_SCALE * sign * normal)
                in_a -= (cy - by) * _STEPS
                in_b -= (ay - cy) * _STEPS
                in_c -= (by - ay) * _STEPS


@_step
def _samples(low: int, high: int, count: int) -> tuple[int, int]:
    """Return the samples whose centers are from `low` to `high` on the grid: the first, and the one behind the last."""
    half = _STEPS // 2
    return max((low - half + _STEPS - 1) // _STEPS, 0), min((high - half) // _STEPS + 1, count)


@_kernel
def shade(
    seen: tuple[Floats, npt.NDArray[np.uint32], npt.NDArray[np.int16]],
    colors: Floats,
    lights: Floats,
    occluders: Floats,
    depth_range: tuple[float, float],
    band: tuple[int, int],
    picture: npt.NDArray[np.uint8],
) -> None:
    """Write rows of the picture: uint8 (rows, columns, RGBA), sRGB, not multiplied by the coverage.

    Args:
        seen: all that was drawn, `SAMPLES` times as large along each side.
        colors: (meshes, RGB), linear.
        lights: (lights, 6), the direction to each and its color.
        occluders: (SAMPLES ** 2, places, XY), in samples, what is looked at for shade.
        depth_range: where depths begin and end.
        band: the rows, from the first to the one behind the last.
        picture: takes the result.

    """
    table = _srgb_table()
    for row in range(band[0], band[1]):
        for column in range(picture.shape[1]):
            red = green = blue = np.float32(0)
            covered = 0
            for sample in range(SAMPLES * SAMPLES):
                y, x = row * SAMPLES + sample // SAMPLES, column * SAMPLES + sample % SAMPLES
                if seen[0][y, x] < np.inf:
                    r, g, b = _color_at(seen, y, x, colors, lights, occluders[sample], depth_range)
                    red += r
                    green += g
                    blue += b
                    covered += 1
            share = np.float32(_LEVELS) / np.float32(max(covered, 1))
            picture[row, column, 0] = table[np.int64(red * share)]
            picture[row, column, 1] = table[np.int64(green * share)]
            picture[row, column, 2] = table[np.int64(blue * share)]
            picture[row, column, 3] = 255 * covered // SAMPLES**2


@_step
def _srgb_table() -> npt.NDArray[np.uint8]:
    """Return what stands in a picture for linear light from 0 to 1, in `_LEVELS` steps."""
    table = np.empty(_LEVELS + 1, np.uint8)
    for i in range(len(table)):
        light = (i + 0.5) / _LEVELS
        encoded = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
        table[i] = np.uint8(min(255 * encoded + 0.5, 255.0))
    return table


@_step
def _color_at(
    seen: tuple[Floats, npt.NDArray[np.uint32], npt.NDArray[np.int16]],
    y: int,
    x: int,
    colors: Floats,
    lights: Floats,
    occluders: Floats,
    depth_range: tuple[float, float],
) -> tuple[float, float, float]:
    """Return the color of a sample."""
    nx, ny = seen[2][y, x, 0] / _SCALE, seen[2][y, x, 1] / _SCALE
    flat = min(nx * nx + ny * ny, np.float32(1))
    nz = -np.sqrt(np.float32(1) - flat)
    depth, mesh = seen[0][y, x], seen[1][y, x]
    open_sky = _openness(seen[0], y, x, (nx, ny, nz), occluders)
    # From above comes more light than from below.
    around = (np.float32(0.28) - np.float32(0.12) * ny) * open_sky
    red = green = blue = around
    gloss = np.float32(0)
    for i in range(len(lights)):
        lx, ly, lz = lights[i, 0], lights[i, 1], lights[i, 2]
        towards = nx * lx + ny * ly + nz * lz
        if towards > 0:
            strength = towards * (np.float32(0.35) + np.float32(0.65) * open_sky)
            red += strength * lights[i, 3]
            green += strength * lights[i, 4]
            blue += strength * lights[i, 5]
            # Half-way between the light and the eye (Blinn).
            along = (towards - nz) / np.sqrt(np.float32(2) - np.float32(2) * lz)
            shine = along * along
            shine *= shine
            shine *= shine
            shine *= shine
            gloss += shine * shine * lights[i, 4] * open_sky * np.float32(0.07)
    own = mesh & ~_FACING_AWAY
    inside = np.float32(0.55) if mesh & _FACING_AWAY else np.float32(1)
    # What is far goes towards the white of the paper.
    far = (depth - np.float32(depth_range[0])) / np.float32(depth_range[1] - depth_range[0])
    haze = np.float32(0.22) * min(max(far, np.float32(0)), np.float32(1))
    near = np.float32(1) - haze
    return (
        near * min(inside * red * colors[own, 0] + gloss, np.float32(1)) + haze,
        near * min(inside * green * colors[own, 1] + gloss, np.float32(1)) + haze,
        near * min(inside * blue * colors[own, 2] + gloss, np.float32(1)) + haze,
    )


@_step
def _openness(depths: Floats, y: int, x: int, normal: tuple[float, float, float], occluders: Floats) -> Any:
    """Return how much of the sky is seen from a sample, 0 to 1.

    McGuire and others, The Alchemy Screen-Space Ambient Obscurance Algorithm, HPG 2011; Luft and others, Image
    Enhancement by Unsharp Masking the Depth Buffer, SIGGRAPH 2006.
    """
    rows, columns = depths.shape
    depth = depths[y, x]
    hidden = np.float32(0)
    last = len(occluders) - 1
    farthest = occluders[last, 0] ** 2 + occluders[last, 1] ** 2 + np.float32(1)
    for i in range(len(occluders)):
        dx, dy = occluders[i, 0], occluders[i, 1]
        row, column = y + np.int64(dy), x + np.int64(dx)
        if 0 <= row < rows and 0 <= column < columns:
            dz = depths[row, column] - depth
            reach = dx * dx + dy * dy
            if dz * dz < _REACH * reach:
                along = normal[0] * dx + normal[1] * dy + normal[2] * dz
                if along > 0:
                    hidden += along * along / (reach + dz * dz)
            elif dz < 0:
                # Something far in front hides no sky; a soft edge tells the eye that it is in front.
                near = np.float32(1) - reach / farthest
                hidden += _EDGE * near * near
    open_sky = np.float32(1) - np.float32(2.2) * hidden / np.float32(len(occluders))
    return np.float32(max(open_sky, np.float32(0.15)))
