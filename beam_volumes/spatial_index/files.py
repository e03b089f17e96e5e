"""The files of a spatial index: one per task box, a cell of meshing, which tells the labels in it and their boxes.

A file is JSON, `{"LABEL": [x0, y0, z0, x1, y1, z1], ...}` in whole nm. Its name is the task's box in nm, cut off where
the volume ends: `0-1024_0-1024_0-2560.spatial`; where the resolution is no whole number, each number has as many
decimals as the longest of the resolution, `22.5-310.5_...`. All task boxes have one shape, in nm, which stands in the
`info` of the folder: `"spatial_index": {"resolution": [...], "chunk_size": [...]}`. So the `info` and the bounds of
the volume tell the name of every file. Format and names are those that CloudVolume reads, see
https://github.com/seung-lab/cloud-volume/blob/master/cloudvolume/datasource/precomputed/spatial_index.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simdjson

from beam_volumes.codecs import compress, decompress
from beam_volumes.errors import CorruptDataError, OptionError, SourceError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder, is_local, join, stored_name

SUFFIX = ".spatial"

Labels = npt.NDArray[np.uint64]
"""One axis, sorted, each once."""

Boxes = npt.NDArray[np.int64]
"""(labels, 6): x0, y0, z0, x1, y1, z1, nm, half open."""

NmBox = tuple[float, float, float, float, float, float]
"""x0, y0, z0, x1, y1, z1, nm, half open."""

_FRAGMENTS = "mesh_fragments"
"""Where forge_mesh writes unless told."""

_COMPRESSIONS = ("gzip", "none", "br")
_GZIP_MAGIC = b"\x1f\x8b"
_NAME_NUMBER = re.compile(r"(?:(?<=^)|(?<=[-_]))-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
_MESH_MIP = re.compile(r"mesh_mip_(\d+)")


class LabelBoxes(NamedTuple):
    """Labels and the box of each."""

    labels: Labels
    boxes: Boxes


@dataclass(frozen=True)
class IndexGrid:
    """The task boxes of an index, and the names of their files.

    Attributes:
        tasks: the boxes, in voxels of the mip that was meshed, clipped to the volume; x fastest.
        resolution: nm per voxel, XYZ, exactly as JSON has it: `4.0` makes other names than `4`.

    """

    tasks: Grid
    resolution: tuple[Decimal, Decimal, Decimal]

    @classmethod
    def of_shape(cls, bounds: Box, shape: Vec, resolution: Iterable[float]) -> IndexGrid:
        """Return the index of tasks of `shape` voxels that begin at the start of `bounds`; nm per voxel, XYZ."""
        x, y, z = (_decimal(n) for n in resolution)
        return cls(Grid(bounds, shape, bounds.start), (x, y, z))

    @classmethod
    def of_info(cls, bounds: Box, index: Json, where: str) -> IndexGrid:
        """Return the index that the field `spatial_index` of an `info` tells of.

        Args:
            bounds: of the volume, voxels.
            index: the field, with a resolution.
            where: the `info`, for messages.

        Raises:
            CorruptDataError: it tells of no index whose tasks are whole voxels.

        """
        try:
            x, y, z = (_decimal(n) for n in index["resolution"])
            lengths = [_decimal(n) for n in index["chunk_size"]]
            a, b, c = (int((s / r).to_integral_value()) for s, r in zip(lengths, (x, y, z), strict=True))
        except (KeyError, TypeError, ValueError, ArithmeticError):
            a = b = c = 0
        if min(a, b, c) < 1:
            raise CorruptDataError(
                f"{where}: expected a spatial_index with resolution and chunk_size, three numbers of nm each, came "
                f"{json.dumps(index)[:200]}: mesh the volume again, or restore the file"
            )
        found = cls(Grid(bounds, (a, b, c), bounds.start), (x, y, z))
        tolerance = Decimal(1).scaleb(-found.decimals) / 2
        if any(abs(n * r - s) > tolerance for n, r, s in zip((a, b, c), (x, y, z), lengths, strict=True)):
            raise CorruptDataError(
                f"{where}: expected a chunk_size of whole voxels of {index['resolution']} nm in spatial_index, came "
                f"{index['chunk_size']}: mesh the volume again, or restore the file"
            )
        return found

    @property
    def decimals(self) -> int:
        """How many decimals the numbers in names have."""
        # CloudVolume counts the digits behind the point of a float as Python writes it: one in 4.0.
        return max(0, *(-int(n.as_tuple().exponent) for n in self.resolution))

    @property
    def info(self) -> Json:
        """The field `spatial_index` of the `info`."""
        sizes = [n * r for n, r in zip(self.tasks.cell, self.resolution, strict=True)]
        return {"resolution": [_number(n) for n in self.resolution], "chunk_size": [_number(n) for n in sizes]}

    @property
    def bounds_nm(self) -> tuple[Decimal, ...]:
        """The volume, nm: x0, y0, z0, x1, y1, z1."""
        return self._in_nm(self.tasks.bounds)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.tasks)

    def name(self, task: int) -> str:
        """Return the name of the file of the task with this index in the grid."""
        return self.name_of(self.tasks.box(self.tasks.position(task)))

    def name_of(self, box: Box) -> str:
        """Return the name of the file of a task box, voxels."""
        x0, y0, z0, x1, y1, z1 = (f"{n:.{self.decimals}f}" for n in self._in_nm(box))
        return f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}{SUFFIX}"

    def task_of(self, name: str) -> int:
        """Return the index of the task whose file has this name.

        Raises:
            CorruptDataError: no file of this index has it.

        """
        numbers = [Decimal(n) for n in _NAME_NUMBER.findall(name.removesuffix(SUFFIX))]
        if len(numbers) == 6:
            x, y, z = (
                int((n / r - first) // cell)
                for n, r, first, cell in zip(
                    numbers[::2], self.resolution, self.tasks.bounds.start, self.tasks.cell, strict=True
                )
            )
            inside = all(0 <= n < most for n, most in zip((x, y, z), self.tasks.shape, strict=True))
            task = self.tasks.index((x, y, z))
            if inside and self.name(task) == name:
                return task
        raise CorruptDataError(
            f"expected the name of an index file such as {self.name(0)}, came {name!r}: the database is that of "
            "another index; load this one"
        )

    def tasks_meeting(self, box_nm: NmBox) -> list[int]:
        """Return the indices of the tasks that share space with a box."""
        exact = [_decimal(n) for n in box_nm]
        low = [(n / r).to_integral_value(ROUND_FLOOR) for n, r in zip(exact[:3], self.resolution, strict=True)]
        high = [(n / r).to_integral_value(ROUND_CEILING) for n, r in zip(exact[3:], self.resolution, strict=True)]
        voxels = Box.of_lists([[int(n) for n in low], [int(n) for n in high]])
        return [self.tasks.index(position) for position in self.tasks.positions_meeting(voxels)]

    def _in_nm(self, box: Box) -> tuple[Decimal, ...]:
        return tuple(n * r for corner in box for n, r in zip(corner, self.resolution, strict=True))


@dataclass(frozen=True)
class IndexFiles:
    """The index files in a folder; picklable, and holds no connection."""

    url: str
    grid: IndexGrid

    def __len__(self) -> int:
        """Return the number of files that there are if none is missing."""
        return len(self.grid)

    def read(self, tasks: Iterable[int]) -> Iterator[bytes | None]:
        """Yield the JSON of each task's file, decompressed, or None where there is none; reads several at once.

        Raises:
            SourceError: a file cannot be read.
            CorruptDataError: a file cannot be decompressed.

        """
        folder, names = Folder(self.url), [self.grid.name(task) for task in tasks]
        # On a disk the suffix tells the compression; elsewhere there is one name, and the first attempt finds it.
        first = folder.read_many([stored_name(self.url, name, _COMPRESSIONS[0]) for name in names])
        others = _COMPRESSIONS[1:] if is_local(self.url) else ()
        for name, data in zip(names, first, strict=True):
            found = data
            for compression in others:
                found = folder.read(stored_name(self.url, name, compression)) if found is None else found
            yield None if found is None else _plain(found, f"{self.url}/{name}")

    def write(self, task: int, content: LabelBoxes, compression: str = _COMPRESSIONS[0]) -> None:
        """Write the file of a task; `compression` is gzip, br or none.

        Raises:
            DestinationError: it cannot be written.

        """
        Folder(self.url).write_compressed(
            self.grid.name(task), compress(encode_boxes(content), compression), compression
        )

    def stored_names(self) -> Iterator[str]:
        """Yield the names that files have in the folder where `write` compresses them as it does by default."""
        return (stored_name(self.url, self.grid.name(task), _COMPRESSIONS[0]) for task in range(len(self)))

    def missing(self, tasks: Iterable[int]) -> SourceError:
        """Return the error that the files of these tasks are missing."""
        names = [self.grid.name(task) for task in tasks]
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        return SourceError(
            f"{self.url}/{names[0]}: expected the index file of a task, but it is missing{others}: mesh that "
            "box again (the same command of forge_mesh makes what it lacks), or accept it with --fill_missing"
        )


def default_folder(layer: str) -> str:
    """Return the folder of index files in a Precomputed volume: of fragments, else that which `info` names."""
    folder = Folder(layer)
    if folder.exists(f"{_FRAGMENTS}/info"):
        return _FRAGMENTS
    return str((folder.read_json("info") or {}).get("mesh") or _FRAGMENTS)


def find_index_files(layer: str, mesh_dir: str, option: str = "layer") -> IndexFiles:
    """Return the index files of a mesh folder in a Precomputed volume.

    Args:
        layer: the volume.
        mesh_dir: the folder, below it.
        option: the option that names the volume, without its dashes.

    Raises:
        OptionError: there is no such volume, or no such folder with a spatial index.
        CorruptDataError: what the infos say cannot be.

    """
    folder = Folder(layer)
    info = folder.read_json("info")
    if info is None or not info.get("scales"):
        raise OptionError(
            f"--{option}: expected a Precomputed volume, but there is no {folder.url}/info that lists scales"
        )
    where = f"{folder.url}/{mesh_dir}/info"
    mesh = folder.read_json(f"{mesh_dir}/info")
    if mesh is None or not isinstance(mesh.get("spatial_index"), dict):
        raise OptionError(
            f"--mesh_dir: expected a folder of meshes with a spatial index, but {where} "
            f"{'does not exist' if mesh is None else 'has no spatial_index'}: name one that mesh, "
            "forge_mesh or merge_mesh has written with --spatial_index"
        )
    scale = _scale(info, _mip(mesh, mesh_dir), where)
    bounds = Box.of_shape(scale[0], scale[1])
    index = {"resolution": scale[2], **mesh["spatial_index"]}
    return IndexFiles(join(folder.url, mesh_dir), IndexGrid.of_info(bounds, index, where))


def encode_boxes(content: LabelBoxes) -> bytes:
    """Return the JSON of an index file, sorted by label."""
    order = np.argsort(content.labels, kind="stable")
    labels, boxes = content.labels[order].tolist(), content.boxes[order].tolist()
    return json.dumps({str(n): box for n, box in zip(labels, boxes, strict=True)}, separators=(",", ":")).encode()


def decode_labels(data: bytes, where: str) -> Labels:
    """Return the labels in the JSON of an index file; `where` is the file, for messages.

    Raises:
        CorruptDataError: it is no index file.

    """
    try:
        # Boxes are most of the file, and are never turned into Python's numbers here.
        found = simdjson.Parser().parse(data)
        if not isinstance(found, simdjson.Object):
            raise ValueError("an object is wanted")
        return np.unique(np.fromiter(map(int, found.keys()), np.uint64, len(found)))
    except (ValueError, OverflowError) as error:
        raise _no_index_file(where, error) from error


def decode_boxes(data: bytes, where: str) -> LabelBoxes:
    """Return the labels and boxes in the JSON of an index file, in its order; `where` is the file, for messages.

    Raises:
        CorruptDataError: it is no index file.

    """
    try:
        found = json.loads(data)
        labels = np.fromiter(map(int, found), np.uint64, len(found))
        boxes = np.array(list(found.values()), np.float64 if _has_fractions(data) else np.int64).reshape(-1, 6)
        if len(boxes) != len(labels):
            raise ValueError("six numbers for each label are wanted")
    except (ValueError, OverflowError, AttributeError, TypeError) as error:
        raise _no_index_file(where, error) from error
    return LabelBoxes(labels, whole_nm(boxes) if boxes.dtype.kind == "f" else boxes.astype(np.int64))


def whole_nm(boxes: npt.NDArray[Any]) -> Boxes:
    """Return the smallest boxes of whole nm that hold `boxes`: (labels, 6), nm."""
    return np.concatenate([np.floor(boxes[:, :3]), np.ceil(boxes[:, 3:])], axis=1).astype(np.int64)


def _has_fractions(data: bytes) -> bool:
    return b"." in data or b"e" in data or b"E" in data


def _plain(data: bytes, where: str) -> bytes:
    """Decompress a file; outside of disks only the bytes tell how it is compressed, and JSON begins with a brace."""
    if data.lstrip()[:1] == b"{":
        return data
    try:
        return decompress(data, "gzip" if data.startswith(_GZIP_MAGIC) else "br")
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}: run the meshing of that box again") from error


def _no_index_file(where: str, error: Exception) -> CorruptDataError:
    return CorruptDataError(
        f"{where}: expected JSON of labels and boxes of six numbers, came something else ({type(error).__name__}): run "
        "the meshing of that box again"
    )


def _mip(mesh: Json, mesh_dir: str) -> Any:
    """Return the mip that was meshed: the `info` has it, older folders have it in their name, as CloudVolume reads."""
    named = _MESH_MIP.search(mesh_dir)
    return mesh.get("mip", int(named[1]) if named else 0)


def _scale(info: Json, mip: Any, where: str) -> tuple[Vec, Vec, list[float]]:
    """Return size, offset and resolution of a scale of a volume."""
    scales = info["scales"]
    if not isinstance(mip, int) or not 0 <= mip < len(scales):
        raise CorruptDataError(
            f"{where}: expected a mip of the volume, 0 to {len(scales) - 1}, came {mip}: restore the file"
        )
    scale = scales[mip]
    (x, y, z), (a, b, c) = scale["size"], scale.get("voxel_offset", (0, 0, 0))
    return (x, y, z), (a, b, c), scale["resolution"]


def _decimal(number: float) -> Decimal:
    """Return a number exactly as Python writes it."""
    try:
        return Decimal(str(number))
    except InvalidOperation:
        raise ValueError(number) from None


def _number(number: Decimal) -> float:
    """Return a number for JSON: whole ones as integers, unless they were written with a point."""
    return int(number) if int(number.as_tuple().exponent) >= 0 else float(number)
