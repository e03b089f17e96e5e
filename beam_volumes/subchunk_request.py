"""What a spec asks of the chunks of a run, its rules, and what of them it breaks: each fault with the value to use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beam_volumes.blending import MODES
from beam_volumes.errors import OptionError, fault_report
from beam_volumes.geometry import Vec
from beam_volumes.subchunks import Level

_POSTPAD_NAMES = {
    "chunk_sizes": "input_sizes",
    "crop_pads": "crop",
    "blend_pads": "blend",
    "blend_modes": "blend_mode",
}
"""Of `PostpadRequest`, each after `processing_`, by those of `SubchunkRequest`."""

_COORDINATES = ("start_coord", "end_coord", "coord_resolution")


@dataclass(frozen=True)
class SubchunkRequest:
    """The arguments of `build_subchunkable_apply_flow` that say how a volume is cut; as they came, not yet checked.

    Attributes:
        processing_chunk_sizes: by level, the largest first: voxels of the destination, XYZ, without pads.
        processing_crop_pads: by level, or one for all of them.
        processing_blend_pads: by level, or one for all of them.
        processing_blend_modes: by level, or one for all of them.
        processing_gap: voxels between the chunks of the top level.
        max_reduction_chunk_size: most voxels of an output box; or, by level, the largest first; None for those of a
            chunk of the top level.
        expand_bbox_resolution: makes the bounding box integral in the destination's resolution.
        expand_bbox_backend: makes it whole chunks of the destination.
        expand_bbox_processing: makes it whole chunks of the top level; its start stays.
        shrink_processing_chunk: makes the chunks of the top level no larger than the bounding box.
        auto_divisibility: makes the chunks above the bottom level smaller, until each holds whole ones of the next.
        skip_intermediaries: nothing is to be blended, or cropped above the bottom level.

    """

    processing_chunk_sizes: Sequence[Sequence[int]] = ()
    processing_crop_pads: Sequence[int] | Sequence[Sequence[int]] = (0, 0, 0)
    processing_blend_pads: Sequence[int] | Sequence[Sequence[int]] = (0, 0, 0)
    processing_blend_modes: str | Sequence[str] = "quadratic"
    processing_gap: Sequence[int] = (0, 0, 0)
    max_reduction_chunk_size: Sequence[int] | Sequence[Sequence[int]] | None = None
    expand_bbox_resolution: bool = False
    expand_bbox_backend: bool = False
    expand_bbox_processing: bool = True
    shrink_processing_chunk: bool = False
    auto_divisibility: bool = False
    skip_intermediaries: bool = False


@dataclass(frozen=True)
class ReadRequest:
    """The values of a request, each of the right form.

    Attributes:
        gap: voxels between the chunks of the top level.
        reduction: most voxels of an output box, if that is said.

    """

    levels: tuple[Level, ...]
    gap: Vec
    reduction: Vec | None


def read_request(request: SubchunkRequest, faults: list[str]) -> ReadRequest | None:
    """Return the values of a request; None, and their faults added to `faults`, where one has a wrong form."""
    before = len(faults)
    chunks = _read_vectors(request.processing_chunk_sizes, "processing_chunk_sizes", 1, faults)
    if not chunks:
        if len(faults) == before:
            faults.append("processing_chunk_sizes: expected at least one size, came none: give [[1024, 1024, 1]], say")
        return None
    if not isinstance(request.processing_chunk_sizes[0], Iterable):
        faults.append(
            f"processing_chunk_sizes: expected a list of sizes, the largest first, came one size: use "
            f"[{list(chunks[0])}]"
        )
    count = len(chunks)
    crops = _per_level(request.processing_crop_pads, "processing_crop_pads", count, faults)
    blends = _per_level(request.processing_blend_pads, "processing_blend_pads", count, faults)
    modes = _read_modes(request.processing_blend_modes, count, faults)
    gap = _read_vectors(request.processing_gap, "processing_gap", 0, faults)
    largest = request.max_reduction_chunk_size
    reduction = None if largest is None else _read_vectors(largest, "max_reduction_chunk_size", 1, faults)
    if len(faults) > before or crops is None or blends is None or modes is None or gap is None:
        return None
    levels = tuple(Level(*values) for values in zip(chunks, crops, blends, modes, strict=True))
    return ReadRequest(levels, gap[0], reduction[0] if reduction else None)


def _per_level(given: Any, name: str, count: int, faults: list[str]) -> list[Vec] | None:
    """Return one vector for each level: the given ones, or the only one for all."""
    vectors = _read_vectors(given, name, 0, faults)
    if vectors is None:
        return None
    if given and not isinstance(given[0], Iterable):
        return vectors * count
    if len(vectors) != count:
        faults.append(_wrong_count(name, count, len(vectors), "pads"))
        return None
    return vectors


def _read_modes(given: Any, count: int, faults: list[str]) -> list[str] | None:
    modes: list[Any] = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(modes) != count:
        faults.append(_wrong_count("processing_blend_modes", count, len(modes), "modes"))
        return None
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong:
        faults.append(f"processing_blend_modes: expected modes out of {', '.join(MODES)}, came {wrong[0]!r}")
        return None
    return modes


def _wrong_count(name: str, expected: int, came: int, what: str) -> str:
    return (
        f"{name}: expected {expected} {what}, as many as processing_chunk_sizes has levels, or one alone, outside of a "
        f"list, for all of them; came {came}"
    )


def _read_vectors(given: Any, name: str, least: int, faults: list[str]) -> list[Vec] | None:
    """Return a vector, or a list of them, as a list; None, and faults, where one is not three numbers from `least`."""
    one = isinstance(given, Iterable) and not any(isinstance(n, Iterable) for n in given)
    if not isinstance(given, Sequence) and not one:
        faults.append(f"{name}: expected three whole numbers, or a list of such, came {given!r}")
        return None
    found, before = [], len(faults)
    for i, vector in enumerate([given] if one and given else given):
        numbers = list(vector) if isinstance(vector, Iterable) and not isinstance(vector, str) else []
        if len(numbers) != 3 or not all(_is_whole(n) and n >= least for n in numbers):
            place = name if one else f"{name}[{i}]"
            faults.append(f"{place}: expected three whole numbers, each at least {least}, came {vector!r}")
        else:
            found.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return found if len(faults) == before else None


def _is_whole(number: object) -> bool:
    return not isinstance(number, bool) and isinstance(number, int | float) and number == int(number)


def missing_arguments(given: Collection[str]) -> list[str]:
    """Return the faults of what is given, and what is not, of the arguments that say what is processed, and where.

    Args:
        given: the names of the arguments that a spec gives: not those of which it says null, or false.

    """
    faults = [
        f"{name}: expected, but not given: {hint}"
        for name, hint in (
            ("dst_resolution", "say at which resolution chunks are processed and written, as [x, y, z] in nm"),
            ("processing_chunk_sizes", "say how the volume is cut, as [[1024, 1024, 1]], the largest chunks first"),
        )
        if name not in given
    ]
    if "fn" in given and "op" in given:
        faults.append("fn, op: expected one of them, came both: leave one out")
    if "fn" not in given and "op" not in given:
        faults.append("fn, op: expected one of them, came neither: give the function to apply as fn")
    coordinates = [name for name in _COORDINATES if name in given]
    places = [name for name in ("bbox", "auto_bbox") if name in given] + coordinates[:1]
    if not places:
        faults.append(
            "bbox: expected, but not given: give bbox, or start_coord, end_coord and coord_resolution, or auto_bbox: "
            "true for all of the destination"
        )
    if len(places) > 1:
        came = [name for name in ("bbox", "auto_bbox", *_COORDINATES) if name in given]
        faults.append(
            f"{', '.join(came)}: expected one way to say what is processed, bbox, or auto_bbox, or "
            f"{', '.join(_COORDINATES)}: leave the others out"
        )
    elif coordinates and len(coordinates) < len(_COORDINATES):
        lacking = [name for name in _COORDINATES if name not in given]
        faults.append(f"{', '.join(lacking)}: expected along with {', '.join(coordinates)}, but not given")
    faults += [
        f"{name}: expected a destination, whose {what} are meant, came dst: null: leave {name} out"
        for name, what in (("auto_bbox", "bounds"), ("expand_bbox_backend", "chunks"))
        if name in given and "dst" not in given
    ]
    return faults


def contradictions(request: SubchunkRequest, read: ReadRequest | None) -> list[str]:
    """Return the faults of switches, and of pads and modes with them, that do not go together.

    Args:
        request: whose switches are looked at.
        read: its values, where they have the right form.

    """
    expand, backend = request.expand_bbox_processing, request.expand_bbox_backend
    shrink, auto = request.shrink_processing_chunk, request.auto_divisibility
    gap = read is not None and any(read.gap)
    off = "set expand_bbox_processing: false (it is true unless said otherwise)"
    pairs = (
        (backend and expand, "expand_bbox_backend, expand_bbox_processing", off),
        (backend and auto, "expand_bbox_backend, auto_divisibility", "leave one out"),
        (backend and gap, "expand_bbox_backend, processing_gap", "leave one out"),
        (shrink and expand, "shrink_processing_chunk, expand_bbox_processing", off),
        (shrink and auto, "shrink_processing_chunk, auto_divisibility", "leave one out"),
        (shrink and gap, "shrink_processing_chunk, processing_gap", "leave one out"),
        (gap and auto, "processing_gap, auto_divisibility", "leave one out"),
    )
    faults = [f"{names}: expected at most one of them, came both: {hint}" for wrong, names, hint in pairs if wrong]
    if auto and not expand:
        faults.append(
            "auto_divisibility: expected expand_bbox_processing: true along with it, as chunks of other sizes need "
            "another bounding box, came false: set it true"
        )
    return faults if read is None else faults + _pad_contradictions(request, read, gap=gap)


def _pad_contradictions(request: SubchunkRequest, read: ReadRequest, *, gap: bool) -> list[str]:
    faults = []
    if gap and any(read.levels[0].blend):
        faults.append(
            f"processing_gap, processing_blend_pads[0]: expected no blend at the top level, whose chunks do not touch, "
            f"came {list(read.levels[0].blend)}: use [0, 0, 0]"
        )
    skip = request.skip_intermediaries
    for i, level in enumerate(read.levels):
        if skip and any(level.blend):
            faults.append(
                f"skip_intermediaries, processing_blend_pads[{i}]: expected no blend at any level, came "
                f"{list(level.blend)}: set skip_intermediaries: false, or use [0, 0, 0]"
            )
        if skip and any(level.crop) and i < len(read.levels) - 1:
            faults.append(
                f"skip_intermediaries, processing_crop_pads[{i}]: expected no crop above the bottom level, came "
                f"{list(level.crop)}: set skip_intermediaries: false, or use [0, 0, 0]"
            )
        if level.mode == "defer" and i > 0:
            faults.append(
                f"processing_blend_modes[{i}]: expected one of {', '.join(m for m in MODES if m != 'defer')} below the "
                f"top level, came 'defer': chunks can be left unblended at the top alone"
            )
    if skip and read.levels[0].mode == "defer":
        faults.append(
            "skip_intermediaries, processing_blend_modes[0]: expected a mode other than 'defer', which leaves "
            "intermediaries to be blended by others: set skip_intermediaries: false"
        )
    return faults


@dataclass(frozen=True)
class PostpadRequest:
    """The arguments of `build_postpad_subchunkable_apply_flow`, whose sizes hold the pads; as they came.

    Attributes:
        processing_input_sizes: by level, the largest first: voxels that the function, or a level above, takes whole.
        processing_crop: of the bottom level; the others crop nothing.
        processing_blend: of all levels.
        processing_blend_mode: of all levels.
        max_reduction_chunk_size: most voxels of an output box.
        expand_bbox_resolution: makes the bounding box integral in the destination's resolution.

    """

    processing_input_sizes: Sequence[Sequence[int]] = ()
    processing_crop: Sequence[int] = (0, 0, 0)
    processing_blend: Sequence[int] = (0, 0, 0)
    processing_blend_mode: str = "quadratic"
    max_reduction_chunk_size: Sequence[int] | None = None
    expand_bbox_resolution: bool = False

    def request(self) -> SubchunkRequest:
        """Return the request whose sizes are without pads.

        Raises:
            OptionError: a value is not three whole numbers, or the pads leave nothing of a size.

        """
        plain = SubchunkRequest(
            self.processing_input_sizes, self.processing_crop, self.processing_blend, self.processing_blend_mode
        )
        faults: list[str] = []
        read = read_request(plain, faults)
        if read is None:
            for ours, theirs in _POSTPAD_NAMES.items():
                faults = [fault.replace(f"processing_{ours}", f"processing_{theirs}") for fault in faults]
            raise OptionError(fault_report(faults))
        *upper, bottom = read.levels
        levels = [*(level._replace(crop=(0, 0, 0)) for level in upper), bottom]
        chunks = [tuple(n - (w - c) for n, w, c in zip(v.chunk, v.whole, v.chunk, strict=True)) for v in levels]
        for i, (level, chunk) in enumerate(zip(levels, chunks, strict=True)):
            if min(chunk) < 1:
                least = [w - c + 1 for w, c in zip(level.whole, level.chunk, strict=True)]
                faults.append(
                    f"processing_input_sizes[{i}]: expected sizes larger than the pads that they hold, twice "
                    f"{level.blend} and twice {level.crop}, came {list(level.chunk)}: use at least {least}"
                )
        if faults:
            raise OptionError(fault_report(faults))
        return SubchunkRequest(
            chunks,
            [level.crop for level in levels],
            self.processing_blend,
            self.processing_blend_mode,
            max_reduction_chunk_size=self.max_reduction_chunk_size,
            expand_bbox_resolution=self.expand_bbox_resolution,
            auto_divisibility=True,
        )
