"""Writing meshes: all fragments of a label meet, and stand before its manifest in a shard, or in files of their own."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import crc32c

from beam_volumes.codecs import compress
from beam_volumes.meshing.cell_output import place_of
from beam_volumes.meshing.fragment_capping import CellData, FragmentFile, split_fragments
from beam_volumes.meshing.legacy import fragment_name, write_manifest
from beam_volumes.meshing.manifest import Manifest, encode_manifest, list_fragments, lod_scales
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.meshing.mesh_output import MeshOutput, MultiresMeshes
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.meshing.simplification import simplify
from beam_volumes.parcels import Parcel, ParcelReader
from beam_volumes.precomputed.shards import write_shard
from beam_volumes.process_pool import peak_memory_bytes
from beam_volumes.receipts import Receipt, receipt_of, record
from beam_volumes.runs import check_claim, telling_of_replacement, while_claimed
from beam_volumes.storage import Folder, join

ItemT = TypeVar("ItemT")

_COMPRESSION_LEVEL = 9

_LARGEST = 50
"""Of each shard, for the picture of a run."""


class WrittenMeshes(NamedTuple):
    """The meshes of one shard; or those that would be in one, as files.

    Attributes:
        receipt: its `chunks` are labels.
        fragments: that came for it.
        reused: 1 where an interrupted run has written it.
        capped: labels with fragments that were too large; `over_cap` fragments still are.
        largest: the labels with the largest meshes, and their bytes, as far as they came.

    """

    receipt: Receipt
    fragments: int
    reused: int
    capped: int
    over_cap: int
    largest: tuple[tuple[int, int], ...]
    seconds: float
    peak_memory_bytes: int


def write_meshes(plan: MeshPlan, labels: int, shard: int, parcels: Sequence[Parcel]) -> WrittenMeshes:
    """Write shard number `shard` of the meshes of `labels` labels, whole, and its receipt.

    The bytes depend on the voxels alone. Memory: one fragment, or 32 MiB of them from afar; the table of all, with some
    500 bytes for each fragment of the shard, and 600 more for those of the label at hand. A label with a fragment over
    the cap stands in a temporary file while it is written; see `split_fragments`.

    Raises:
        DestinationError: it cannot be written, or the destination has been taken over.

    """
    started = time.perf_counter()
    with telling_of_replacement(plan.claim), ParcelReader(plan.claim.scratch, list(parcels)) as reader:
        out = _writer_of(plan.output)(plan, labels, shard, reader)
        receipt = out.finished_before()
        reused = int(receipt is not None)
        if receipt is None:
            check_claim(plan.claim)
            receipt = out.write()
            check_claim(plan.claim)
            record(plan.claim, receipt)
        return WrittenMeshes(
            receipt,
            len(reader.pieces),
            reused,
            out.capped,
            out.over_cap,
            out.largest(),
            time.perf_counter() - started,
            peak_memory_bytes(),
        )


class _Object(NamedTuple):
    """A label's mesh as it is stored: its manifest, and its fragments in that order."""

    label: int
    manifest: bytes
    fragments: Iterator[bytes]


@dataclass
class _Writer:
    """Writes the meshes of a shard, or those that would be in one."""

    plan: MeshPlan
    labels: int
    shard: int
    reader: ParcelReader
    capped: int = 0
    over_cap: int = 0

    def finished_before(self) -> Receipt | None:
        """Return None: files of their own are written again, which takes no longer than to look at each."""
        return None

    def largest(self) -> tuple[tuple[int, int], ...]:
        """Return bytes and label of the largest objects of the shard."""
        lengths = self.reader.pieces["length"]
        sizes = ((int(lengths[rows.start : rows.stop].sum()), label) for label, rows in self.reader.groups())
        return tuple(heapq.nlargest(_LARGEST, sizes))

    def write(self) -> Receipt:
        """Write all labels."""
        raise NotImplementedError

    def _labels(self) -> Iterator[tuple[int, range]]:
        """Yield labels and the rows of their fragments."""
        return while_claimed(self.plan.claim, self.reader.groups())


class _ManifestWriter(_Writer):
    """Writes the manifest of each label; the cells have written its fragments."""

    def write(self) -> Receipt:
        plan, count, size = self.plan, 0, 0
        folder = Folder(join(plan.claim.url, plan.folder))
        for label, rows in self._labels():
            cells = [plan.cells.index(place_of(self.reader.box(row)).position) for row in rows]
            size += write_manifest(folder, label, [fragment_name(label, plan.own_voxels(cell)) for cell in cells])
            count += 1
        return Receipt(0, self.shard, count, size, 0)


class _MultiresWriter(_Writer):
    """Writes each label as two files: its fragments, and its manifest."""

    def write(self) -> Receipt:
        folder, files = Folder(self.plan.claim.url), _Files()
        for mesh in self._objects():
            name = f"{self.plan.folder}/{mesh.label}"
            with folder.write_stream(name) as out:
                for fragment in mesh.fragments:
                    out.write(files.counted(fragment))
            folder.write(f"{name}.index", files.counted(mesh.manifest))
            files.labels += 1
        return files.receipt(self.shard)

    def _objects(self) -> Iterator[_Object]:
        """Yield objects; the fragments of each must be taken before the next one."""
        for is_over, labels in itertools.groupby(self._labels(), self._is_over_cap):
            objects = self._split if is_over else self._as_they_are
            yield from objects(labels)

    def _is_over_cap(self, label: tuple[int, range]) -> bool:
        """Whether at least one fragment of a label is too large."""
        _, rows = label
        return bool(self.reader.pieces["length"][rows.start : rows.stop].max() > self.plan.multires.max_fragment_bytes)

    def _as_they_are(self, labels: Iterable[tuple[int, range]]) -> Iterator[_Object]:
        """Yield objects whose fragments are read for many of them together."""
        coming = deque[tuple[int, bytes, int]]()

        def rows_in_order() -> Iterator[int]:
            for label, rows in labels:
                manifest, ordered = self._listed(rows)
                coming.append((label, manifest, len(ordered)))
                yield from ordered

        fragments = self.reader.read(rows_in_order())
        while (first := next(fragments, None)) is not None:
            label, manifest, count = coming.popleft()
            yield _Object(label, manifest, itertools.chain([first], itertools.islice(fragments, count - 1)))

    def _listed(self, rows: range) -> tuple[bytes, list[int]]:
        """Return the manifest of a label, and the rows of its fragments in that order."""
        plan, lengths = self.plan, self.reader.pieces["length"]
        lods: list[list[tuple[tuple[int, int, int], int]]] = [[] for _ in range(plan.num_lods)]
        rows_of: list[list[int]] = [[] for _ in range(plan.num_lods)]
        for row in rows:
            place = place_of(self.reader.box(row))
            lods[place.lod].append((place.position, int(lengths[row])))
            rows_of[place.lod].append(row)
        listed = list_fragments(lods)
        manifest = encode_manifest(listed, plan.grid, lod_scales(plan.grid, plan.num_lods))
        return manifest, list(_in_order(listed, rows_of))

    def _split(self, labels: Iterable[tuple[int, range]]) -> Iterator[_Object]:
        """Yield objects of which at least one fragment is too large."""
        plan, most = self.plan, self.plan.multires.max_fragment_bytes
        for label, rows in labels:
            places = (place_of(self.reader.box(row)) for row in rows)
            cells = zip(places, self.reader.read(rows), strict=True)
            fragments = ((place.lod, CellData(place.position, data)) for place, data in cells)
            with FragmentFile() as file:
                done = split_fragments(fragments, plan.num_lods, plan.grid, most, _simplified, file)
                self.capped += 1
                self.over_cap += done.over_cap
                listed = list_fragments([[(cell.position, cell.size) for cell in level] for level in done.lods])
                scales = _finer(lod_scales(plan.grid, plan.num_lods), done.added_lods)
                manifest = encode_manifest(listed, done.grid, scales)
                yield _Object(label, manifest, map(file.read, _in_order(listed, done.lods)))


class _ShardWriter(_MultiresWriter):
    """Writes all labels as one shard."""

    def finished_before(self) -> Receipt | None:
        """Return the receipt of an interrupted run whose file stands as it was written."""
        plan = self.plan
        receipt = receipt_of(plan.claim, 0, self.shard) if plan.claim.state == "resumed" else None
        if receipt is None:
            return None
        if self.reader.pieces["length"].max(initial=0) > plan.multires.max_fragment_bytes:
            # What comes of splitting is counted while it is done, and stands in no receipt.
            return None
        size = Folder(plan.claim.url).size(self._name())
        return receipt if size == receipt.bytes else None

    def write(self) -> Receipt:
        spec = self.plan.sharding(self.labels)

        def entries() -> Iterator[tuple[int | None, bytes]]:
            for mesh in self._objects():
                for fragment in mesh.fragments:
                    yield None, fragment
                yield mesh.label, compress(mesh.manifest, spec.data_encoding, _COMPRESSION_LEVEL)

        with Folder(self.plan.claim.url).write_stream(self._name()) as out:
            summary = write_shard(out, spec, entries())
            check_claim(self.plan.claim)
        return Receipt(0, self.shard, summary.chunks, summary.bytes, summary.crc32c)

    def _name(self) -> str:
        return f"{self.plan.folder}/{self.plan.sharding(self.labels).shard_name(self.shard)}"


def _writer_of(output: MeshOutput) -> type[_Writer]:
    if isinstance(output, MultiresMeshes):
        return _ShardWriter if output.sharded else _MultiresWriter
    return _ManifestWriter


def _in_order(manifest: Manifest, lods: Sequence[Sequence[ItemT]]) -> Iterator[ItemT]:
    """Yield what there is of each fragment in the order of the manifest; parents without one are passed over."""
    for level, items in zip(manifest.levels, lods, strict=True):
        yield from (items[n] for n in level.given.tolist() if n >= 0)


class _Files:
    """Adds up files; the checksum is that of all of them, xor'ed: in any order."""

    def __init__(self) -> None:
        self.labels = self._bytes = self._crc = 0

    def counted(self, data: bytes) -> bytes:
        self._bytes += len(data)
        self._crc ^= crc32c.crc32c(data)
        return data

    def receipt(self, shard: int) -> Receipt:
        return Receipt(0, shard, self.labels, self._bytes, self._crc)


def _simplified(mesh: Mesh, resolution_nm: tuple[float, float, float], target_faces: int) -> Mesh:
    return simplify(mesh, resolution_nm, target_faces, None).mesh


def _finer(scales: tuple[float, ...], added: int) -> tuple[float, ...]:
    """Return the scales with those of levels that were added below: they show the same triangles, in more cells."""
    return (*(scales[0] / 2**k for k in range(added, 0, -1)), *scales)
