"""A picture of meshes, for a report: drawn without a display or a graphics card.

The eye is far away, so that lengths are the same everywhere and a scale bar tells them. It looks along z, as
Neuroglancer does at first, with x to the right and y down, but from a little above and from the side: a picture, not
its mirror image.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
"""(rows, columns, RGBA), not multiplied by A."""
LabelMesh = tuple[int, Floats, npt.NDArray[np.uint32]]
"""A label; its vertices, nm, (vertices, XYZ); its faces, counterclockwise as seen from outside."""
BoxNm = tuple[tuple[float, float, float], tuple[float, float, float]]
"""The first and the last corner, nm, XYZ."""

_YAW, _PITCH = math.radians(33), math.radians(24)
_MARGIN, _FOOT = 0.05, 0.07
"""Left free around the volume, and for the scale bar below it: parts of the height."""

_INK, _FAINT = "#222222", "#b9bec6"
_BAND, _THREADS = 64, 4
"""Rows that are shaded at a time, and how many threads do it."""

_DPI = 100
_LEVEL = 4
"""Of compression: the next ones take twice the time, and save a few percent."""
_PIXELS = 128, 4096
"""Of a side, at least and at most."""

# Towards the light, and its color; the first from the upper left, the second softer and bluer, from the right.
_LIGHTS = (((-0.50, -0.70, -0.65), (0.93, 0.90, 0.85)), ((0.80, 0.15, -0.60), (0.22, 0.25, 0.30)))

_OCCLUDERS, _SHADE = 10, 0.045
"""How many places are looked at for the shade of each sample, and how far away: a part of the height."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))

# From OKLab to cones, and from there to linear sRGB: https://bottosson.github.io/posts/oklab/
_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_SRGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


class _View(NamedTuple):
    """How places become places in the picture.

    Attributes:
        camera: (3, 4), from nm to pixels to the right, pixels down, and pixels away.
        nearest: the least depth of the box, pixels.
        farthest: the most.

    """

    camera: npt.NDArray[np.float64]
    nearest: float
    farthest: float

    def place(self, corner: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the pixels to the right and down of places in nm: (places, XYZ)."""
        return corner @ self.camera[:2, :3].T + self.camera[:2, 3]

    @property
    def pixels_per_nm(self) -> float:
        """The scale."""
        return float(np.linalg.norm(self.camera[0, :3]))


class _Scene(NamedTuple):
    """What the meshes look like, and from where."""

    picture: Pixels
    view: _View
    box_nm: BoxNm


def render_meshes(
    meshes: Iterable[LabelMesh], size: tuple[int, int] = (1600, 1200), *, box_nm: BoxNm | None = None, title: str = ""
) -> bytes:
    """Return a PNG of meshes, each in a color that depends on its label alone; the same bytes for the same meshes.

    Args:
        meshes: to draw; where they are open the inside is seen, darker.
        size: of the picture, pixels.
        box_nm: what is to be seen, as a rule the volume; it is drawn as a frame. None for the box of the meshes, which
            are all kept in memory then, else one at a time.
        title: above the picture.

    Memory: 32 bytes for each of the four samples of a pixel, and a mesh.

    Raises:
        ValueError: the size is one that cannot be drawn.

    """
    width, height = size
    if not all(_PIXELS[0] <= n <= _PIXELS[1] for n in size):
        raise ValueError(f"expected {_PIXELS[0]} to {_PIXELS[1]} pixels each way, came {width} x {height}")
    if box_nm is None:
        meshes = list(meshes)
        box_nm = _box_of(meshes)
    if box_nm is None:
        return _compose(size, None, title)
    view = _view(box_nm, size)
    return _compose(size, _Scene(_drawn(meshes, view, size), view, box_nm), title)


def color_of(label: int) -> tuple[float, float, float]:
    """Return the color of a label, linear RGB: a hue, lightness and strength that its hash tells, readable on white."""
    number = label * 0x9E3779B97F4A7C15 & 2**64 - 1
    number = (number ^ number >> 31) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    number ^= number >> 29
    hue = (number & 0xFFFF) / 2**16 * 2 * math.pi
    lightness = 0.58 + 0.16 * (number >> 16 & 0xFFFF) / 2**16
    strength = 0.10 + 0.06 * (number >> 32 & 0xFFFF) / 2**16
    lab = np.array([lightness, strength * math.cos(hue), strength * math.sin(hue)])
    red, green, blue = np.clip(_SRGB @ (_CONES @ lab) ** 3, 0.01, 1).tolist()
    return red, green, blue


def _box_of(meshes: Iterable[LabelMesh]) -> BoxNm | None:
    ends = [(vertices.min(axis=0), vertices.max(axis=0)) for _, vertices, _ in meshes if len(vertices)]
    if not ends:
        return None
    (x0, y0, z0), (x1, y1, z1) = np.min([a for a, _ in ends], axis=0), np.max([b for _, b in ends], axis=0)
    return (float(x0), float(y0), float(z0)), (float(x1), float(y1), float(z1))


def _corners(box_nm: BoxNm) -> npt.NDArray[np.float64]:
    """Return the 8 corners of a box, x fastest."""
    return np.array([[box_nm[n >> axis & 1][axis] for axis in range(3)] for n in range(8)], np.float64)


def _view(box_nm: BoxNm, size: tuple[int, int]) -> _View:
    """Return the view that shows a box as large as it fits."""
    a, b = math.cos(_YAW), math.sin(_YAW)
    c, d = math.cos(_PITCH), math.sin(_PITCH)
    turned = np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]])
    rotation = np.array([[1, 0, 0], [0, c, -d], [0, d, c]]) @ turned
    shown = _corners(box_nm) @ rotation.T
    low, high = shown.min(axis=0), shown.max(axis=0)
    width, height = size
    free = np.array([width - 2 * _MARGIN * height, height * (1 - 2 * _MARGIN - _FOOT)])
    # A single point is as good as a nm.
    scale = float((free / np.maximum(high - low, 1)[:2]).min())
    middle = np.array([width / 2, height * (1 - _FOOT) / 2, 0])
    shift = middle - scale * (low + high) / 2
    depths = scale * (np.array([low[2], high[2]]) - (low[2] + high[2]) / 2)
    return _View(np.hstack([scale * rotation, shift[:, None]]), *map(float, depths))


def _drawn(meshes: Iterable[LabelMesh], view: _View, size: tuple[int, int]) -> Pixels:
    """Return the picture, as samples of all that is nearest."""
    from beam_volumes.meshing import picture_kernels as kernels

    samples, (width, height) = kernels.SAMPLES, size
    shape = (height * samples, width * samples)
    seen = (np.full(shape, np.inf, np.float32), np.zeros(shape, np.uint32), np.zeros((*shape, 2), np.int16))
    camera = view.camera * samples
    colors: list[tuple[float, float, float]] = []
    for label, vertices, faces in meshes:
        own = _frozen(vertices, np.float32), _frozen(faces, np.uint32)
        places, depths = kernels.project(own[0], camera)
        normals = kernels.vertex_normals(*own, camera)
        kernels.draw(own[1], places, depths, normals, len(colors), seen)
        colors.append(color_of(label))
    lights = [[*(np.array(towards) / np.linalg.norm(towards)), *color] for towards, color in _LIGHTS]
    picture = np.empty((height, width, 4), np.uint8)
    shade = functools.partial(
        kernels.shade,
        seen,
        np.array(colors, np.float32).reshape(-1, 3),
        np.array(lights, np.float32),
        _occluders(samples, height),
        (view.nearest * samples, view.farthest * samples + 1),
    )
    bands = [(start, min(start + _BAND, height)) for start in range(0, height, _BAND)]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda band: shade(band, picture), bands))
    return picture


def _occluders(samples: int, height: int) -> Floats:
    """Return the places that are looked at for shade, on a spiral: (samples of a pixel, places, XY)."""
    count = samples**2 * _OCCLUDERS
    turns = np.arange(count)
    # More of them nearby, where shade is sharp.
    reach = np.maximum(1.5, _SHADE * height * samples * ((turns + 0.5) / count) ** 0.8)
    spiral = np.stack([reach * np.cos(turns * _GOLDEN_ANGLE), reach * np.sin(turns * _GOLDEN_ANGLE)], axis=1)
    return np.rint(spiral).reshape(_OCCLUDERS, samples**2, 2).swapaxes(0, 1).astype(np.float32, order="C")


def _frozen(array: npt.NDArray[Any], data_type: type[np.generic]) -> npt.NDArray[Any]:
    """Return a view that cannot be written to: some arrays come so, and numba would compile for both kinds."""
    view = np.ascontiguousarray(array, data_type).view()
    view.flags.writeable = False
    return view


def _compose(size: tuple[int, int], scene: _Scene | None, title: str) -> bytes:
    """Return the PNG: the frame, the meshes, and on top of them title, axes and scale bar."""
    # Loading it takes long, and only the one worker that draws needs it.
    from matplotlib.image import imsave

    height = size[1]
    front = _figure(size)
    if title:
        front.text(0.5, 1 - 0.018, title, ha="center", va="top", fontsize=_points(height, 13), color=_INK)
    picture = np.full((height, size[0], 4), 255, np.uint8)
    if scene is None:
        front.text(0.5, 0.5, "no meshes", ha="center", va="center", fontsize=_points(height, 16), color=_INK)
    else:
        back = _figure(size)
        _add_frame(back, front, scene, size)
        _add_scale_bar(front, scene.view, size)
        _add_axes(front, scene.view, size)
        _lay(picture, _pixels(back))
        _lay(picture, scene.picture)
    _lay(picture, _pixels(front))
    metadata: Any = {"Software": None}
    out = io.BytesIO()
    imsave(out, picture, format="png", metadata=metadata, pil_kwargs={"compress_level": _LEVEL})
    return out.getvalue()


def _figure(size: tuple[int, int]) -> Figure:
    """Return an empty figure of so many pixels, transparent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Figure) -> Pixels:
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _lay(picture: Pixels, layer: Pixels) -> None:
    """Put a layer on a picture that is opaque; both (rows, columns, RGBA), of which most may be empty."""
    rows, columns = np.nonzero(layer[:, :, 3])
    own = layer[rows, columns].astype(np.uint32)
    share = own[:, 3:]
    under = picture[rows, columns, :3].astype(np.uint32)
    picture[rows, columns, :3] = (own[:, :3] * share + under * (255 - share) + 127) // 255


def _add_line(figure: Figure, ends: npt.NDArray[np.float64], size: tuple[int, int], **style: Any) -> None:
    """Draw a line between places in pixels, (places, to the right and down)."""
    from matplotlib.lines import Line2D

    places = ends / np.array(size)
    figure.add_artist(Line2D(places[:, 0], 1 - places[:, 1], transform=figure.transFigure, **style))


def _add_frame(back: Figure, front: Figure, scene: _Scene, size: tuple[int, int]) -> None:
    """Draw the edges of the box: those behind the meshes, and fainter those in front."""
    corners = _corners(scene.box_nm)
    places = scene.view.place(corners)
    farthest = int(np.argmax(corners @ scene.view.camera[2, :3]))
    width = size[1] / 1200
    for n in range(8):
        for axis in range(3):
            other = n ^ 1 << axis
            if n < other:
                is_behind = farthest in (n, other)
                style = {"linewidth": width, "color": _FAINT, "alpha": 1 if is_behind else 0.55}
                _add_line(back if is_behind else front, places[[n, other]], size, **style)


def _add_scale_bar(figure: Figure, view: _View, size: tuple[int, int]) -> None:
    width, height = size
    length, text = scale_bar(0.2 * width / view.pixels_per_nm)
    right, y = width - _MARGIN * height, height * (1 - 0.035)
    left = right - length * view.pixels_per_nm
    _add_line(figure, np.array([[left, y], [right, y]]), size, color=_INK, linewidth=3 * height / 1200)
    figure.text(
        (left + right) / 2 / width,
        1 - (y - 0.008 * height) / height,
        text,
        ha="center",
        va="bottom",
        fontsize=_points(height, 11),
        color=_INK,
    )


def scale_bar(most_nm: float) -> tuple[float, str]:
    """Return the longest round length up to `most_nm`, in nm, and its name."""
    power = 10.0 ** math.floor(math.log10(most_nm))
    length = next(power * n for n in (5, 2, 1) if power * n <= most_nm * (1 + 1e-9))
    unit, name = next((unit, name) for unit, name in ((1e6, "mm"), (1e3, "µm"), (0, "nm")) if length >= unit)
    return length, f"{length / (unit or 1):g} {name}"


def _add_axes(figure: Figure, view: _View, size: tuple[int, int]) -> None:
    """Draw where x, y and z go."""
    width, height = size
    reach = 0.04 * height
    origin = np.array([_MARGIN * height + 0.2 * reach, height * (1 - 0.035) - 0.9 * reach])
    for axis, name in enumerate("xyz"):
        step = view.camera[:2, axis] / view.pixels_per_nm
        _add_line(figure, np.array([origin, origin + reach * step]), size, color=_INK, linewidth=1.4 * height / 1200)
        x, y = origin + step * reach + step / np.linalg.norm(step) * 0.011 * height
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": _points(height, 10), "color": _INK}
        figure.text(x / width, 1 - y / height, name, **style)


def _points(height: int, points: float) -> float:
    """Return the size of letters that look as they do in a picture of 1200 rows."""
    return points * 1.45 * height / 1200
