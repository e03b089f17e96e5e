"""Fragments of the staged way, and meshes of one resolution: as CloudVolume, Igneous and Neuroglancer have them.

A mesh is the number of vertices (`<u4`), the vertices (`<f4`, nm, XYZ) and the faces (`<u4`). What a task box makes
stands in a folder either

- as one file, `BOX.frags`: a MapBuffer of the meshes by label, compressed with brotli; or
- as a file for each label, `LABEL:0:BOX`, compressed as a file. A manifest, `LABEL:0`, names those of a label:
  `{"fragments": ["LABEL:0:BOX", ...]}`. With it Neuroglancer shows the fragments as they are: a legacy mesh.

BOX is the task's box in voxels of the mip that was meshed, cut off where the volume ends: `0-448_0-448_0-448`. The
voxel of overlap is not part of it. The format of a mesh:
https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md; names and `.frags` are what
Igneous writes and reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from beam_volumes import map_buffer
from beam_volumes.codecs import compress
from beam_volumes.errors import CorruptDataError
from beam_volumes.geometry import Box
from beam_volumes.meshing.mesh import UNITS, Mesh
from beam_volumes.precomputed.info import chunk_name
from beam_volumes.storage import Folder, join

SUFFIX = ".frags"

Resolution = tuple[float, float, float]
"""nm per voxel, XYZ."""

_BOX = r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)"
_FRAGS_NAME = re.compile(rf"{_BOX}{re.escape(SUFFIX)}")
_COUNT_BYTES = 4
_ROW_BYTES = 12
"""Of a vertex, and of a face."""

_ADVICE = "forge that box again"


def encode_mesh(mesh: Mesh, resolution_nm: Resolution) -> bytes:
    """Return a mesh as bytes of the legacy format.

    `decode_mesh` gives back the same mesh up to 524,288 voxels from the corner of voxel (0, 0, 0). Beyond that float32
    is coarser than a sixteenth of a voxel; vertices at the same place stay at the same place.
    """
    vertices = mesh.vertices * (np.array(resolution_nm, np.float64) / UNITS)
    count = np.array([len(vertices)], "<u4")
    return b"".join((count.tobytes(), vertices.astype("<f4").tobytes(), mesh.faces.astype("<u4").tobytes()))


def decode_mesh(data: bytes, resolution_nm: Resolution, where: str) -> Mesh:
    """Return the mesh that bytes of the legacy format hold, each coordinate moved to the nearest sixteenth of a voxel.

    Faces are kept as they are, also those that have lost their area.

    Args:
        data: not compressed any more.
        resolution_nm: of the mip that was meshed.
        where: what the bytes are, for messages.

    Raises:
        CorruptDataError: they are no mesh, or one that is too far out for int32.

    """
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    end = _COUNT_BYTES + _ROW_BYTES * count
    if len(data) < _COUNT_BYTES or not _is_mesh(data):
        raise CorruptDataError(
            f"{where}: expected a legacy mesh of {count} vertices, 12 bytes each, and faces of 12 bytes, came "
            f"{len(data)} bytes: {_ADVICE}"
        )
    found = np.frombuffer(data, "<f4", 3 * count, _COUNT_BYTES).reshape(-1, 3)
    faces = np.frombuffer(data, "<u4", offset=end).reshape(-1, 3).astype(np.uint32)
    if len(faces) and int(faces.max()) >= count:
        raise CorruptDataError(f"{where}: expected faces of {count} vertices, came vertex {faces.max()}: {_ADVICE}")
    vertices = np.rint(found * (UNITS / np.array(resolution_nm, np.float64)))
    if not (np.abs(vertices) < 2**31).all():
        raise CorruptDataError(
            f"{where}: expected vertices in nm within {2**31 // UNITS:,} voxels of the origin, came "
            f"{found[np.argmax(~(np.abs(vertices) < 2**31).all(axis=1))].tolist()}: {_ADVICE}"
        )
    return Mesh(vertices.astype(np.int32), faces)


def frags_name(box: Box) -> str:
    """Return the name of the file that holds the fragments of all labels of a task box."""
    return f"{chunk_name(box)}{SUFFIX}"


def fragment_name(label: int, box: Box) -> str:
    """Return the name of the file that holds the fragment of one label of a task box."""
    return f"{label}:0:{chunk_name(box)}"


def manifest_name(label: int) -> str:
    """Return the name of the file that names the fragments of a label."""
    return f"{label}:0"


def parse_frags_name(name: str) -> Box | None:
    """Return the task box of a `.frags` file, or None where it is another file's name."""
    found = _FRAGS_NAME.fullmatch(name)
    return None if found is None else _box(found.groups())


def read_fragments(
    folder: Folder, name: str, resolution_nm: Resolution, labels: Collection[int] | None = None
) -> Iterator[tuple[int, Mesh]]:
    """Yield the labels and meshes of a `.frags` file, in its order; see `map_buffer.read_values`.

    Args:
        folder: of the meshes.
        name: of the file.
        resolution_nm: of the mip that was meshed.
        labels: those that are wanted, as far as they are there; None for all.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        CorruptDataError: the file, or a mesh in it, is not what was written.

    """
    where = join(folder.url, name)
    for label, data in map_buffer.read_values(folder, name, labels):
        yield label, decode_mesh(data, resolution_nm, f"{where}: label {label}")


def write_fragment(folder: Folder, name: str, mesh: Mesh, resolution_nm: Resolution, compression: str = "gzip") -> int:
    """Write the mesh of one label of a task box as a file of its own, and return its size in bytes.

    Args:
        folder: of the meshes.
        name: of the file: see `fragment_name`.
        mesh: of the label.
        resolution_nm: of the mip that was meshed.
        compression: of the file: gzip, br or none.

    Raises:
        DestinationError: it cannot be written.

    """
    data = compress(encode_mesh(mesh, resolution_nm), compression)
    folder.write_compressed(name, data, compression)
    return len(data)


def write_manifest(folder: Folder, label: int, fragments: Iterable[str]) -> int:
    """Write the manifest of a label, which names its fragments, and return its size in bytes.

    Raises:
        DestinationError: it cannot be written.

    """
    data = json.dumps({"fragments": list(fragments)}, separators=(",", ":")).encode()
    folder.write(manifest_name(label), data, content_type="application/json")
    return len(data)


def _is_mesh(data: bytes) -> bool:
    rest = len(data) - _COUNT_BYTES - _ROW_BYTES * int.from_bytes(data[:_COUNT_BYTES], "little")
    return rest >= 0 and rest % _ROW_BYTES == 0


def _box(numbers: Iterable[str]) -> Box:
    x0, x1, y0, y1, z0, z1 = map(int, numbers)
    return Box((x0, y0, z0), (x1, y1, z1))
