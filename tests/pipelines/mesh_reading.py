"""Meshes of a volume, read by none of our code: what other tools find there, and whether it fits together.

Shards are taken apart by hand, and once more by tensorstore; manifests by hand; fragments by DracoPy.
"""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import DracoPy
import numpy as np
import numpy.typing as npt
import tensorstore

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_AXIS_BITS = 21
"""Three coordinates of so many bits make one number."""


class Place(NamedTuple):
    """Where a manifest stands in a file, and where its fragments begin."""

    file: str
    start: int
    stop: int


class StoredLevel(NamedTuple):
    """One level of detail: positions (n, XYZ) and the bytes of each fragment."""

    positions: Ints
    fragments: list[bytes]


@dataclass(frozen=True)
class Surface:
    """An object at one level of detail; each place has one vertex.

    Attributes:
        vertices: int64, (n, XYZ), quanta from the origin: position of the fragment * (2^bits - 1) + quantum.
        faces: int64, (m, 3).
        origin_nm, quantum_nm: where the vertices count from, and how far apart they can be, nm, XYZ.

    """

    vertices: Ints
    faces: Ints
    origin_nm: Floats
    quantum_nm: Floats

    @property
    def nm(self) -> Floats:
        """Return the vertices in nm."""
        return self.origin_nm + self.vertices * self.quantum_nm

    @cached_property
    def open_edges(self) -> Ints:
        """Return the ends, (n, 2), of edges with an odd number of faces."""
        corners = self.faces
        edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
        edges = edges[edges[:, 0] != edges[:, 1]]
        keys, counts = np.unique(edges[:, 0] << 32 | edges[:, 1], return_counts=True)
        odd = keys[counts % 2 == 1]
        return np.stack([odd >> 32, odd & 0xFFFFFFFF], axis=1)

    @property
    def volume_nm3(self) -> float:
        """Return the volume of a closed surface; over 0 where faces are counterclockwise from outside."""
        points = self.nm - self.nm.mean(axis=0)
        a, b, c = np.moveaxis(points[self.faces], 1, 0)
        return float((np.cross(a, b) * c).sum() / 6)


@dataclass(frozen=True)
class StoredMesh:
    """A multi-resolution mesh as its manifest and its fragments tell of it."""

    chunk_shape: Floats
    grid_origin: Floats
    scales: tuple[float, ...]
    levels: tuple[StoredLevel, ...]
    bits: int

    @classmethod
    def read(cls, manifest: bytes, before: memoryview, bits: int) -> StoredMesh:
        """Take a manifest apart; its fragments are the last bytes of `before`."""
        *reals, num_lods = struct.unpack_from("<6fI", manifest)
        scales = struct.unpack_from(f"<{num_lods}f", manifest, 28)
        offsets = struct.unpack_from(f"<{3 * num_lods}f", manifest, 28 + 4 * num_lods)
        counts = struct.unpack_from(f"<{num_lods}I", manifest, 28 + 16 * num_lods)
        assert num_lods > 0
        assert len(manifest) == 28 + 20 * num_lods + 16 * sum(counts)
        assert set(offsets) == {0.0}
        assert list(scales) == sorted(scales)
        assert scales[0] > 0
        at, listed = 28 + 20 * num_lods, list[tuple[Ints, Ints]]()
        for count in counts:
            numbers = np.frombuffer(manifest, "<u4", 4 * count, at).astype(np.int64)
            listed.append((numbers[: 3 * count].reshape(3, count).T, numbers[3 * count :]))
            at += 16 * count
        total = sum(int(sizes.sum()) for _, sizes in listed)
        assert total <= len(before)
        at, levels = len(before) - total, list[StoredLevel]()
        for positions, sizes in listed:
            ends = (at + np.cumsum(sizes)).tolist()
            fragments = [bytes(before[end - size : end]) for end, size in zip(ends, sizes.tolist(), strict=True)]
            levels.append(StoredLevel(positions, fragments))
            at += int(sizes.sum())
        return cls(np.array(reals[:3]), np.array(reals[3:]), scales, tuple(levels), bits)

    @property
    def bytes(self) -> int:
        """Return how many bytes the fragments have."""
        return sum(len(fragment) for level in self.levels for fragment in level.fragments)

    def check(self) -> None:
        """Make sure that the cells of each level are in Z-order, that all parents are listed, and none for nothing."""
        for level in self.levels:
            codes = [_morton(*position) for position in level.positions.tolist()]
            assert codes == sorted(set(codes))
        for lod, (level, above) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            parents = set(map(tuple, (level.positions >> 1).tolist()))
            listed = set(map(tuple, above.positions.tolist()))
            assert parents <= listed
            idle = listed - parents
            assert all(above.fragments[n] for n, p in enumerate(above.positions.tolist()) if tuple(p) in idle), lod
        assert any(self.levels[-1].fragments)

    def surface(self, lod: int) -> Surface:
        """Return what is shown at a level; makes sure that fragments have what readers rely on."""
        top, middle, level = (1 << self.bits) - 1, 1 << (self.bits - 1), self.levels[lod]
        vertices, faces, count = [np.empty((0, 3), np.int64)], [np.empty((0, 3), np.int64)], 0
        for position, fragment in zip(level.positions, level.fragments, strict=True):
            if not fragment:
                continue
            mesh = DracoPy.decode(fragment)
            points, corners = np.asarray(mesh.points), np.asarray(mesh.faces).astype(np.int64)
            quanta = points.astype(np.int64)
            assert np.array_equal(quanta, points)
            assert len(corners) > 0
            assert quanta.min() >= 0
            assert quanta.max() <= top
            if lod:
                sides = np.sign(quanta - middle)[corners]
                assert (sides.min(axis=1) * sides.max(axis=1) >= 0).all(), "a triangle is in two octants"
            vertices.append(position * top + quanta)
            faces.append(corners + count)
            count += len(quanta)
        welded, numbers = weld(np.concatenate(vertices))
        quantum = self.chunk_shape * 2**lod / top
        return Surface(welded, numbers[np.concatenate(faces)], self.grid_origin, quantum)


class MeshReader:
    """Reads multi-resolution meshes, in shards or in files of their own.

    Args:
        layer: folder of the volume, whose `info` names that of the meshes.

    """

    def __init__(self, layer: Path) -> None:
        self.folder = layer / json.loads((layer / "info").read_text())["mesh"]
        self.info = json.loads((self.folder / "info").read_text())
        assert self.info["@type"] == "neuroglancer_multilod_draco"
        assert self.info["transform"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
        assert self.info["lod_scale_multiplier"] == 1
        self.bits = self.info["vertex_quantization_bits"]
        self._files: dict[str, bytes] = {}
        self.places = self._in_shards() if "sharding" in self.info else self._in_files()

    @property
    def labels(self) -> list[int]:
        """All labels with a mesh, in order."""
        return sorted(self.places)

    def mesh(self, label: int) -> StoredMesh:
        """Return the mesh of a label; its manifest and fragments are checked."""
        place = self.places[label]
        data = memoryview(self._read(place.file))
        if "sharding" not in self.info:
            mesh = StoredMesh.read((self.folder / f"{label}.index").read_bytes(), data, self.bits)
            assert mesh.bytes == len(data)
        else:
            manifest = self._store.read(label.to_bytes(8, "big")).result().value
            encoded = data[place.start : place.stop]
            assert manifest == (
                gzip.decompress(encoded) if self.info["sharding"]["data_encoding"] == "gzip" else encoded
            )
            mesh = StoredMesh.read(manifest, data[: place.start], self.bits)
        mesh.check()
        return mesh

    def check_shards(self) -> None:
        """Make sure that shards hold manifests, the fragments before them, and nothing else."""
        parts: dict[str, list[tuple[int, int]]] = {}
        for label, place in self.places.items():
            start = place.start - self.mesh(label).bytes
            parts.setdefault(place.file, []).append((start, place.stop))
        for file, ranges in parts.items():
            ranges = sorted([*ranges, *self._indices[file]])
            assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
            assert ranges[-1][1] == (self.folder / file).stat().st_size
        assert parts.keys() == {path.name for path in self.folder.glob("*.shard")}

    def _read(self, file: str) -> bytes:
        if file not in self._files:
            self._files[file] = (self.folder / file).read_bytes()
        return self._files[file]

    @cached_property
    def _store(self) -> Any:
        spec = {"driver": "neuroglancer_uint64_sharded", "metadata": self.info["sharding"]}
        return tensorstore.KvStore.open({**spec, "base": f"file://{self.folder}/"}).result()

    def _in_files(self) -> dict[int, Place]:
        labels = [int(path.stem) for path in self.folder.glob("*.index")]
        assert {str(label) for label in labels} == {
            path.name for path in self.folder.iterdir() if path.name.isdecimal()
        }
        return {label: Place(str(label), 0, 0) for label in labels}

    def _in_shards(self) -> dict[int, Place]:
        sharding, places = self.info["sharding"], dict[int, Place]()
        self._indices: dict[str, list[tuple[int, int]]] = {}
        for path in self.folder.glob("*.shard"):
            data = path.read_bytes()
            head = 16 << sharding["minishard_bits"]
            indices = [(0, head)]
            for start, stop in (np.frombuffer(data[:head], "<u8").reshape(-1, 2) + np.uint64(head)).tolist():
                if start == stop:
                    continue
                indices.append((start, stop))
                raw = data[start:stop]
                raw = gzip.decompress(raw) if sharding["minishard_index_encoding"] == "gzip" else raw
                labels, gaps, sizes = np.frombuffer(raw, "<u8").reshape(3, -1)
                ends = head + np.cumsum(gaps + sizes)
                for label, end, size in zip(np.cumsum(labels).tolist(), ends.tolist(), sizes.tolist(), strict=True):
                    assert label not in places
                    places[label] = Place(path.name, int(end - size), int(end))
            self._indices[path.name] = indices
        return places


def legacy_surface(layer: Path, label: int, resolution_nm: tuple[int, int, int]) -> Surface:
    """Return a legacy mesh; its vertices are in sixteenths of a voxel."""
    folder = layer / json.loads((layer / "info").read_text())["mesh"]
    names = json.loads(_read(folder / f"{label}:0"))["fragments"]
    vertices, faces, count = list[Floats](), list[Ints](), 0
    for name in names:
        data = _read(folder / name)
        number = int.from_bytes(data[:4], "little")
        points = np.frombuffer(data, "<f4", 3 * number, 4).reshape(-1, 3)
        vertices.append(points.astype(np.float64))
        faces.append(np.frombuffer(data, "<u4", -1, 4 + 12 * number).astype(np.int64).reshape(-1, 3) + count)
        count += number
    unit = np.array(resolution_nm) / 16
    whole = np.concatenate(vertices) / unit
    assert np.abs(whole - np.rint(whole)).max() < 1e-2
    welded, numbers = weld(np.rint(whole).astype(np.int64))
    return Surface(welded, numbers[np.concatenate(faces)], np.zeros(3), unit)


def weld(vertices: Ints) -> tuple[Ints, Ints]:
    """Return one vertex for each place, and which of them stands for each that was given."""
    if not len(vertices):
        return vertices, np.empty(0, np.int64)
    low = vertices.min(axis=0)
    x, y, z = (vertices - low).T
    assert max(x.max(), y.max(), z.max()) < 1 << _AXIS_BITS
    keys, numbers = np.unique(x | y << _AXIS_BITS | z << 2 * _AXIS_BITS, return_inverse=True)
    mask = (1 << _AXIS_BITS) - 1
    return np.stack([keys & mask, keys >> _AXIS_BITS & mask, keys >> 2 * _AXIS_BITS], axis=1) + low, numbers


def _read(path: Path) -> bytes:
    packed = path.with_name(f"{path.name}.gz")
    return gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()


def _morton(x: int, y: int, z: int) -> int:
    return sum((x >> n & 1) << 3 * n | (y >> n & 1) << 3 * n + 1 | (z >> n & 1) << 3 * n + 2 for n in range(32))
