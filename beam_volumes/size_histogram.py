"""How large objects are: a histogram that is counted in passing, and its picture."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EXACT_BITS = 11
_BINS = (64 - _EXACT_BITS + 2) * 2 ** (_EXACT_BITS - 1)

_BARS_PER_DECADE = 5
_INK, _OBJECTS, _VOLUME = "#222222", "#3b6fb6", "#c2571a"
_NM3_PER_UM3 = 1e9


class Subject(NamedTuple):
    """What is shown: a name for the title, and the volume of a voxel in nm^3."""

    name: str
    voxel_nm3: float


@dataclass
class SizeHistogram:
    """Objects, and voxels in them, by size, in bins: one for each size below 2048, above 1024 for each power of two.

    Any number of objects in the memory of 56,320 bins; a bin's sizes differ by 0.1 percent at most.
    """

    objects: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_BINS, np.uint64))
    voxels: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_BINS, np.uint64))

    def add(self, sizes: npt.NDArray[np.uint64]) -> None:
        """Count objects of these sizes, voxels."""
        bins = bin_of(sizes)
        self.objects += np.bincount(bins, minlength=_BINS).astype(np.uint64)
        np.add.at(self.voxels, bins, sizes)

    @property
    def median(self) -> int:
        """The size, in voxels, that half of the objects do not pass; to 0.1 percent; 0 without objects."""
        return self._size_at(self.objects)

    @property
    def n50(self) -> int:
        """The size such that objects up to it hold half of all voxels; to 0.1 percent; 0 without objects."""
        return self._size_at(self.voxels)

    def _size_at(self, weights: npt.NDArray[np.uint64]) -> int:
        total = int(weights.sum())
        if not total:
            return 0
        half = np.uint64((total + 1) // 2)
        return int(smallest_in(np.searchsorted(np.cumsum(weights), half))[()])


def bin_of(sizes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the bins of sizes: the highest 11 bits, and how many bits were left out."""
    left_out = np.maximum(_bit_length(sizes) - _EXACT_BITS, 0)
    return (left_out << (_EXACT_BITS - 1)) + (sizes >> left_out.astype(np.uint64)).astype(np.int64)


def smallest_in(bins: Any) -> npt.NDArray[np.uint64]:
    """Return the smallest size of each bin."""
    bins = np.asarray(bins, np.int64)
    left_out = np.maximum((bins >> (_EXACT_BITS - 1)) - 1, 0)
    highest: npt.NDArray[np.uint64] = (bins - (left_out << (_EXACT_BITS - 1))).astype(np.uint64)
    smallest: npt.NDArray[np.uint64] = np.left_shift(highest, left_out.astype(np.uint64))
    return smallest


def _bit_length(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    # float64 may round a number up to the next power of two; without its lowest bits it does not.
    small = numbers >> np.uint64(32)
    high = np.frexp(small.astype(np.float64))[1]
    low = np.frexp((numbers & np.uint64(2**32 - 1)).astype(np.float64))[1]
    return np.where(small > 0, high + 32, low).astype(np.int64)


def draw(histogram: SizeHistogram, subject: Subject) -> bytes:
    """Return a PNG: how many objects there are of each size, and how the volume is shared among them.

    The same bytes for the same numbers, with the same version of matplotlib.
    """
    # Loading it takes long, and only the one worker that draws needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    figure.suptitle(f"Object sizes of {subject.name}", fontsize=11, color=_INK)
    _draw_axes(figure, upper, lower, histogram, subject)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw_axes(figure: Figure, upper: Axes, lower: Axes, histogram: SizeHistogram, subject: Subject) -> None:
    objects = int(histogram.objects.sum())
    lower.set_xlabel("size of an object (voxels)")
    upper.set_ylabel(f"objects per bin ({_BARS_PER_DECADE} bins a decade)")
    lower.set_ylabel("share of volume\nin objects up to a size")
    for axes in (upper, lower):
        axes.spines["right"].set_visible(False)
        axes.spines["top"].set_visible(axes is upper)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    if not objects:
        upper.text(0.5, 0.5, "no objects: all is background", ha="center", transform=upper.transAxes)
        return
    edges, heights = _bars(histogram)
    lower.set_xscale("log")
    upper.set_yscale("log")
    upper.stairs(heights, edges, fill=True, color=_OBJECTS, alpha=0.85, baseline=0.5)
    upper.stairs(heights, edges, color="#27497a", linewidth=0.8, baseline=0.5)
    upper.set_ylim(0.5, max(float(heights.max()) * 3, 20))
    sizes, shares = _shares(histogram)
    lower.plot(sizes, shares, color=_VOLUME, linewidth=1.6, drawstyle="steps-post")
    lower.set_ylim(0, 1.03)
    lower.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    lower.set_xlim(edges[0] / 1.1, edges[-1] * 1.1)
    _add_marks(upper, lower, histogram)
    _add_volumes(upper, subject)
    _add_numbers(upper, histogram, subject)
    figure.align_ylabels([upper, lower])


def _bars(histogram: SizeHistogram) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Return the edges of bars, and the objects in each; the bars begin at whole sizes."""
    used = np.flatnonzero(histogram.objects)
    low, high = smallest_in(used[[0, -1]]).astype(np.float64)
    first = math.floor(math.log10(low) * _BARS_PER_DECADE)
    last = math.floor(math.log10(high) * _BARS_PER_DECADE) + 1
    # Up to 10 voxels, say, some bars would hold no whole number.
    powers = np.ceil(10 ** (np.arange(first, last + 1) / _BARS_PER_DECADE) - 1e-9)
    edges = np.unique(powers)
    bars = np.searchsorted(edges, smallest_in(used).astype(np.float64), side="right") - 1
    heights = np.zeros(len(edges) - 1, np.uint64)
    np.add.at(heights, bars, histogram.objects[used])
    return edges, heights


def _shares(histogram: SizeHistogram) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
    used = np.flatnonzero(histogram.objects)
    sums = np.cumsum(histogram.voxels[used])
    return smallest_in(used), sums / float(sums[-1])


def _add_marks(upper: Axes, lower: Axes, histogram: SizeHistogram) -> None:
    marks = [(upper, histogram.median, "median"), (lower, histogram.n50, "half of the volume is in objects up to")]
    for axes, size, name in marks:
        axes.axvline(size, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        left, right = axes.get_xlim()
        is_right = math.log(size / left) > 0.5 * math.log(right / left)
        axes.annotate(
            f"{name}: {_short(size)}",
            (size, 0.96),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if is_right else 5, 0),
            textcoords="offset points",
            ha="right" if is_right else "left",
            va="top",
            fontsize=8.5,
            color=_INK,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
        )


def _add_volumes(upper: Axes, subject: Subject) -> None:
    factor = subject.voxel_nm3 / _NM3_PER_UM3

    def volume_of(size: Any) -> Any:
        return size * factor

    def size_of(volume: Any) -> Any:
        return volume / factor

    volumes = upper.secondary_xaxis("top", functions=(volume_of, size_of))
    volumes.set_xlabel("volume of an object (µm³)")


def _add_numbers(upper: Axes, histogram: SizeHistogram, subject: Subject) -> None:
    objects, voxels = int(histogram.objects.sum()), int(histogram.voxels.sum())
    micrometres = voxels * subject.voxel_nm3 / _NM3_PER_UM3
    lines = [f"{objects:,} objects", f"{voxels:,} voxels", f"{micrometres:,.4g} µm³", "background left out"]
    upper.text(
        0.985,
        0.96,
        "\n".join(lines),
        transform=upper.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        linespacing=1.5,
        color=_INK,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "#bbbbbb", "alpha": 0.9},
    )


def _short(size: int) -> str:
    return f"{size:,}" if size < 10_000 else f"{size:.3g}".replace("e+0", "e").replace("e+", "e")
