"""A picture of one slice of what a run has read, and of what it has written, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import Array
from beam_volumes.geometry import Box
from beam_volumes.meshing.picture import color_of

Pixels = npt.NDArray[np.uint8]
"""(rows, columns, RGB)"""

_MOST, _LEAST = 1024, 400
"""Pixels of the longer side of a panel: voxels are left out, or repeated."""

_GAP, _MARGIN = 16, 12
_LINE, _LINES = 18, 3
"""Height of a line of a caption, and how many there are."""

_DPI, _POINTS, _LETTER = 100, 8.5, 7.2
"""Of captions: the last is the width of a letter, pixels."""

_INK, _PAPER = "#222222", "#f4f4f2"
_SHOWN = (1, 99)
"""Percentiles of the values that are black and white."""


class Panel(NamedTuple):
    """One volume in a picture.

    Attributes:
        title: what it is.
        values: of one z slice: (C, x, y, 1).
        box: which voxels these are.
        is_segmentation: whether the values are ids.

    """

    title: str
    values: Array
    box: Box
    is_segmentation: bool = False


def pictured_box(bounds: Box, most: int) -> Box:
    """Return the middle of the middle z slice of a box: at most `most` voxels along x and y."""
    sides = list(zip(bounds.start, bounds.stop, strict=True))
    (x0, x1), (y0, y1) = (_middle(start, stop, most) for start, stop in sides[:2])
    z0, z1 = _middle(*sides[2], 1)
    return Box((x0, y0, z0), (x1, y1, z1))


def slice_picture(panels: Sequence[Panel]) -> bytes:
    """Return a PNG of slices, with captions; x goes to the right and y down. The same bytes for the same panels.

    One channel is grey, two are a direction (hue) and a length (brightness), three are red, green and blue; of more the
    first is shown. uint8 is shown as it is, and other values from their 1st to their 99th percentile; each id has a
    color of its own, and 0 is black.
    """
    # Loading it takes long, and only the one worker that draws needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [_drawn(panel) for panel in panels]
    widths = [max(pixels.shape[1], _LEAST) for pixels, _ in drawn]
    head = _MARGIN + _LINES * _LINE
    width = sum(widths) + _GAP * (len(widths) - 1) + 2 * _MARGIN
    height = max(pixels.shape[0] for pixels, _ in drawn) + head + _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    left = _MARGIN
    for panel, (pixels, shown), room in zip(panels, drawn, widths, strict=True):
        figure.figimage(pixels, left, height - head - pixels.shape[0], origin="upper")
        for line, text in enumerate([panel.title, _place(panel), shown]):
            figure.text(
                left / width,
                1 - (_MARGIN / 2 + line * _LINE) / height,
                _shortened(text, int(room / _LETTER)),
                va="top",
                fontsize=_POINTS,
                family="monospace",
                weight="normal" if line else "bold",
                color=_INK,
                parse_math=False,
            )
        left += room + _GAP
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _middle(start: int, stop: int, most: int) -> tuple[int, int]:
    if stop - start <= most:
        return start, stop
    first = start + (stop - start - most) // 2
    return first, first + most


def _place(panel: Panel) -> str:
    (x0, y0, z), (x1, y1, _) = panel.box
    step = _step(panel.values)
    return f"x {x0} to {x1}, y {y0} to {y1}, z {z}" + (f", 1 voxel in {step}" if step > 1 else "")


def _step(values: Array) -> int:
    return max(-(-max(values.shape[1:3]) // _MOST), 1)


def _shortened(text: str, most: int) -> str:
    """Return a text of at most so many letters, without its middle if need be."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[: most - 3 - half]}...{text[-half:]}"


def _drawn(panel: Panel) -> tuple[Pixels, str]:
    """Return a slice in pixels, and what its caption says of the values."""
    step = _step(panel.values)
    values = panel.values[:, ::step, ::step, 0].transpose(2, 1, 0)
    pixels, shown = _ids(values) if panel.is_segmentation else _image(values)
    times = max(_LEAST // max(values.shape[:2]), 1)
    return pixels.repeat(times, axis=0).repeat(times, axis=1), shown


def _ids(values: Array) -> tuple[Pixels, str]:
    labels, ranks = np.unique(values[..., 0], return_inverse=True)
    linear = np.array([color_of(label) if label else (0, 0, 0) for label in labels.tolist()])
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colors = np.rint(255 * srgb).astype(np.uint8)
    found = labels[labels != 0]
    shown = f"{len(found):,} ids, {found[0]} to {found[-1]}" if len(found) else "no ids: all is 0"
    return colors[ranks.reshape(values.shape[:2])], shown


def _image(values: Array) -> tuple[Pixels, str]:
    """Return (rows, columns, C) values as pixels, and what is said of them."""
    channels = values.shape[2]
    note = f"channel 0 of {channels}, " if channels > 3 else ""
    values = values[..., : 1 if channels > 3 else channels]
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros((*values.shape[:2], 3), np.uint8), f"{note}no finite values"
    note += f"values {_text(finite.min())} to {_text(finite.max())}"
    wide = np.nan_to_num(values.astype(np.float64))
    if channels == 2:
        return _field(wide), note
    low, high = _range_shown(finite)
    if (low, high) != (finite.min(), finite.max()):
        note += f", shown {_text(low)} to {_text(high)}"
    shade = np.clip((wide - low) / (high - low or 1), 0, 1)
    grey = np.rint(255 * shade).astype(np.uint8)
    return np.broadcast_to(grey, (*grey.shape[:2], 3)).copy(), note


def _range_shown(finite: Array) -> tuple[float, float]:
    """Return which values are black and white."""
    if finite.dtype == np.bool_ or (finite.dtype == np.uint8 and finite.max() <= 1):
        return 0, 1
    if finite.dtype == np.uint8:
        return 0, 255
    low, high = np.percentile(finite.astype(np.float64), _SHOWN)
    return (float(low), float(high)) if low < high else (float(finite.min()), float(finite.max()))


def _field(vectors: npt.NDArray[np.float64]) -> Pixels:
    """Return directions as hues, right is red, and lengths up to the 99th percentile as brightness."""
    from matplotlib.colors import hsv_to_rgb

    x, y = vectors[..., 0], vectors[..., 1]
    length = np.hypot(x, y)
    longest = np.percentile(length, _SHOWN[1]) or length.max() or 1
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    colors = hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.clip(length / longest, 0, 1)], axis=-1))
    return np.rint(255 * colors).astype(np.uint8)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(int(value))
