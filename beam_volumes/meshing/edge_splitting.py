"""Sheets of a surface that meet at an edge, parted again.

Where a simplifier flattens a neck or a hole of an object, two sheets of its surface come to share an edge, which then
has four faces. The faces are paired as they stand around the edge, without sheets that cross, and all but one of the
sheets get a vertex of their own in the middle of the edge, drawn a little into the sheet.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from beam_volumes.meshing.mesh import Mesh

_INWARD = 8
"""The new vertex goes this part of the way from the edge to the corners across it, and a unit at least."""

_Edge = tuple[int, int]
_Corners = tuple[int, int, int]


def split_crowded_edges(mesh: Mesh, edges: npt.NDArray[np.uint32], resolution_nm: tuple[float, float, float]) -> Mesh:
    """Part the sheets that meet at some edges: all but one get two faces more, and an edge keeps two, or one if open.

    Open edges stay. Where the faces at an edge cannot be paired, as too many of them look the same way, they stay as
    well; and a new vertex may lie where another is. So count the edges of what comes back, welded.

    Args:
        mesh: what the edges are of; no two faces have the same three corners.
        edges: (edges, 2), uint32, the lower index first, see `topology.crowded_edges`.
        resolution_nm: size of a voxel, XYZ, for the angles between faces.

    """
    if not len(edges):
        return mesh
    marked = np.zeros(len(mesh.vertices), np.bool_)
    marked[edges] = True
    near = np.flatnonzero(marked[mesh.faces].sum(axis=1) > 1)
    patch = _Patch(mesh, near, resolution_nm)
    for low, high in edges.tolist():
        patch.part((low, high))
    faces = np.delete(mesh.faces, near, axis=0)
    return Mesh(
        np.concatenate([mesh.vertices, np.array(patch.added, np.int32).reshape(-1, 3)]),
        np.concatenate([faces, np.array(list(patch.faces.values()), np.uint32)]),
    )


class _Patch:
    """Some faces of a mesh, by number, and which of them are at an edge."""

    def __init__(self, mesh: Mesh, near: npt.NDArray[np.intp], resolution_nm: tuple[float, float, float]) -> None:
        self._vertices = mesh.vertices
        self._resolution = np.array(resolution_nm, np.float64)
        self._at: dict[_Edge, list[int]] = {}
        self._next = 0
        self.faces: dict[int, _Corners] = {}
        self.added: list[npt.NDArray[np.int64]] = []
        for a, b, c in mesh.faces[near].tolist():
            self._add((a, b, c))

    def part(self, edge: _Edge) -> None:
        """Give all sheets at an edge but one a vertex of their own; an open sheet is the one, where there is such."""
        sheets, rest = self._sheets(edge)
        for sheet in sheets[: len(sheets) - (not rest)]:
            self._split(edge, sheet)

    def _sheets(self, edge: _Edge) -> tuple[list[_Edge], list[int]]:
        """Return the pairs of faces at an edge, from the sharpest on, and the faces that have no partner."""
        around = sorted((self._angle(edge, number), number) for number in self._at[edge])
        sheets = []
        while len(around) > 1:
            gaps = [
                ((angle - around[i - 1][0]) % math.tau, i)
                for i, (angle, number) in enumerate(around)
                if self._is_ahead(edge, number) != self._is_ahead(edge, around[i - 1][1])
            ]
            if not gaps:
                break
            _, i = min(gaps)
            sheets.append((around[i - 1][1], around[i][1]))
            gone = {*sheets[-1]}
            around = [item for item in around if item[1] not in gone]
        return sheets, [number for _, number in around]

    def _angle(self, edge: _Edge, number: int) -> float:
        """Return where a face stands as seen along the edge, in radians, from one direction for all."""
        low, high = (self._vertex(corner) * self._resolution for corner in edge)
        axis = (high - low) / np.linalg.norm(high - low)
        side = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
        across = self._vertex(self._opposite(edge, number)) * self._resolution - low
        return math.atan2(across @ np.cross(axis, side), across @ side)

    def _is_ahead(self, edge: _Edge, number: int) -> bool:
        corners = self.faces[number]
        return corners[(corners.index(edge[0]) + 1) % 3] == edge[1]

    def _opposite(self, edge: _Edge, number: int) -> int:
        return next(corner for corner in self.faces[number] if corner not in edge)

    def _vertex(self, index: int) -> npt.NDArray[np.int64]:
        known = len(self._vertices)
        return self._vertices[index].astype(np.int64) if index < known else self.added[index - known]

    def _split(self, edge: _Edge, sheet: _Edge) -> None:
        middle = len(self._vertices) + len(self.added)
        self.added.append(self._middle(edge, sheet))
        for number in sheet:
            corners = self.faces[number]
            self._remove(number)
            for end in edge:
                a, b, c = (middle if corner == end else corner for corner in corners)
                self._add((a, b, c))

    def _middle(self, edge: _Edge, sheet: _Edge) -> npt.NDArray[np.int64]:
        twice = self._vertex(edge[0]) + self._vertex(edge[1])
        way = sum(self._vertex(self._opposite(edge, number)) for number in sheet) - twice
        step = np.sign(way) * np.maximum(1, np.abs(way) // (2 * _INWARD))
        return twice // 2 + step

    def _add(self, corners: _Corners) -> None:
        self.faces[self._next] = corners
        for edge in _edges_of(corners):
            self._at.setdefault(edge, []).append(self._next)
        self._next += 1

    def _remove(self, number: int) -> None:
        for edge in _edges_of(self.faces.pop(number)):
            self._at[edge].remove(number)


def _edges_of(corners: _Corners) -> list[_Edge]:
    return [(min(corners[i - 1], corners[i]), max(corners[i - 1], corners[i])) for i in range(3)]
