"""A triangle mesh in exact coordinates, as it travels between the steps of meshing.

Coordinates are whole sixteenths of a voxel, from the corner of voxel (0, 0, 0): what two cells have in common is equal
in both to the last bit, so that vertices are welded by comparing numbers. The center of voxel 5 is at 5 * 16 + 8;
marching cubes puts its vertices half-way between centers, at multiples of 8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNITS = 16
"""Of a coordinate, per voxel."""

Vertices = npt.NDArray[np.int32]
Faces = npt.NDArray[np.uint32]
Reach = npt.NDArray[np.float64]
"""(2, XYZ), nm: a lowest and a highest corner."""


class Mesh(NamedTuple):
    """Triangles that share vertices.

    Attributes:
        vertices: int32, (vertices, XYZ), sixteenths of a voxel from the corner of voxel (0, 0, 0).
        faces: uint32, (triangles, 3), indices of vertices; counterclockwise as seen from outside of the object.

    """

    vertices: Vertices
    faces: Faces

    def reach_nm(self, resolution_nm: tuple[float, float, float]) -> Reach:
        """Return the lowest and the highest corner of the box around the vertices."""
        corners = np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])
        return np.asarray(corners * (np.array(resolution_nm) / UNITS))

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` takes: the number of vertices (`<u4`), the vertices and the faces (`<i4`, `<u4`)."""
        head = np.array([len(self.vertices)], "<u4")
        return b"".join((head.tobytes(), self.vertices.astype("<i4").tobytes(), self.faces.astype("<u4").tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Mesh:
        """Return the mesh that `to_bytes` has written; its arrays cannot be written to."""
        count = int.from_bytes(data[:4], "little")
        end = 4 + 12 * count
        vertices = np.frombuffer(data[4:end], "<i4").reshape(-1, 3)
        return cls(vertices, np.frombuffer(data[end:], "<u4").reshape(-1, 3))
