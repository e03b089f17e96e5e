"""Fragments of Neuroglancer's multi-resolution meshes: the surface of one object in one cell, in Draco.

Format: the section "Multi-resolution mesh fragment data file format" of
https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md

Everything is counted in integers, so that what cells have in common stays common: a point on the face between two cells
is stored at the same place in both, and a surface that is closed over all cells stays closed. Readers show octants of
a cell separately where the level of detail is not 0: no triangle may be in two of them.
"""

from __future__ import annotations

from typing import NamedTuple

import DracoPy
import numpy as np

from beam_volumes.errors import CorruptDataError, VolumeError
from beam_volumes.geometry import Vec
from beam_volumes.meshing.mesh import Faces, Mesh
from beam_volumes.meshing.mesh_grid import MeshGrid
from beam_volumes.meshing.multires_kernels import Quanta, quantize, split, weld

# Of 0 to 10. On simplified meshes of neurons it takes 3 % more time than level 1 and makes fragments 3 % smaller; for
# another 3 % of bytes, level 10 takes half as much time again. Level 0 makes them three to six times as large.
_COMPRESSION_LEVEL = 8

# The smallest closed body, from its lowest corner; counterclockwise from outside.
_TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.int32)
_TETRAHEDRON_FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32)


class QuantizedMesh(NamedTuple):
    """Triangles of one cell, as they are stored.

    Attributes:
        quanta: int32, (vertices, XYZ), from 0 at the start of the cell to 2^bits - 1 at its end.
        faces: uint32, (triangles, 3), indices of vertices; counterclockwise as seen from outside of the object.

    """

    quanta: Quanta
    faces: Faces


class Fragment(NamedTuple):
    """An encoded fragment.

    Attributes:
        data: Draco; empty where there was no triangle to encode.
        faces: the number of triangles in it.
        clamped: how many vertices were outside of the cell, and moved to its border.
        is_stand_in: the triangles were all smaller than a quantum, and a tetrahedron of one quantum stands for them.

    """

    data: bytes
    faces: int
    clamped: int = 0
    is_stand_in: bool = False


def encode_fragment(mesh: Mesh, grid: MeshGrid, lod: int, position: Vec) -> Fragment:
    """Return the fragment of an object in one cell; `mesh` has the triangles that belong to the cell.

    Raises:
        VolumeError: if Draco cannot encode it.

    """
    if not len(mesh.faces):
        return Fragment(b"", 0)
    vertices = np.require(mesh.vertices, np.int32, ["C", "W"])
    quanta = np.empty(vertices.shape, np.int32)
    clamped = quantize(vertices, grid.start(lod, position), grid.length(lod), grid.top, quanta)
    quantized = QuantizedMesh(quanta, np.require(mesh.faces, np.uint32, ["C", "W"]))
    if lod:
        quantized = split_octants(quantized, grid.bits)
    return encode_quantized(quantized, grid.bits)._replace(clamped=clamped)


def split_octants(mesh: QuantizedMesh, bits: int) -> QuantizedMesh:
    """Cut triangles in two or three where they cross the planes between the octants of the cell."""
    return QuantizedMesh(*split(mesh.quanta, mesh.faces, 1 << (bits - 1)))


def welded(mesh: QuantizedMesh) -> QuantizedMesh:
    """Make one vertex of those at one position; leave out triangles with fewer than three corners then."""
    return QuantizedMesh(*weld(mesh.quanta, mesh.faces))


def encode_quantized(mesh: QuantizedMesh, bits: int) -> Fragment:
    """Return the fragment of triangles, at least one, in quantized coordinates.

    Raises:
        VolumeError: if Draco cannot encode it.

    """
    first = mesh.quanta[mesh.faces[0, 0]]
    mesh = welded(mesh)
    is_stand_in = not len(mesh.faces)
    if is_stand_in:
        # One quantum further is still in the cell, and never beyond the plane between two octants.
        mesh = QuantizedMesh(np.minimum(first, (1 << bits) - 2) + _TETRAHEDRON, _TETRAHEDRON_FACES)
    return Fragment(_encode_draco(mesh), len(mesh.faces), is_stand_in=is_stand_in)


def _encode_draco(mesh: QuantizedMesh) -> bytes:
    """Return the bytes of Draco; signed integers, as Neuroglancer takes no others."""
    try:
        return DracoPy.encode(mesh.quanta.astype(np.int32), mesh.faces, compression_level=_COMPRESSION_LEVEL)
    except DracoPy.EncodingFailedException as error:
        raise VolumeError(
            f"expected a mesh that Draco can encode, came one of {len(mesh.quanta):,} vertices and "
            f"{len(mesh.faces):,} triangles that it refuses ({error}): report it with the label and the box"
        ) from error


def decode_fragment(data: bytes, bits: int) -> QuantizedMesh:
    """Return the triangles of a fragment; vertices at one position, which Draco may have parted, are one.

    Raises:
        CorruptDataError: if it is no mesh in Draco with positions in whole quanta of a cell.

    """
    if not data:
        return QuantizedMesh(np.empty((0, 3), np.int32), np.empty((0, 3), np.uint32))
    try:
        stored = DracoPy.decode(data)
    except (DracoPy.FileTypeException, TypeError, ValueError) as error:
        raise CorruptDataError(
            f"expected a mesh fragment in Draco, came {len(data):,} bytes that do not decode ({error}): make it anew"
        ) from error
    points = np.asarray(stored.points)
    quanta = points.astype(np.int32)
    faces = np.asarray(getattr(stored, "faces", ()), np.uint32).reshape(-1, 3)
    if not len(faces) or (quanta != points).any() or quanta.min() < 0 or int(quanta.max()) >> bits:
        raise CorruptDataError(
            f"expected a mesh fragment with positions that are whole numbers under 2^{bits}, came {len(faces):,} "
            f"triangles with positions from {points.min():g} to {points.max():g}: check vertex_quantization_bits in "
            "the info, or make it anew"
        )
    return welded(QuantizedMesh(np.ascontiguousarray(quanta), np.require(faces, np.uint32, ["C", "W"])))
