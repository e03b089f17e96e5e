"""Meshing with packs in an object store: the same bytes, and no more requests and bytes than are needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import transforms.mesh
from beam_volumes.parcels import Parcel
from beam_volumes.precomputed import sharding
from beam_volumes.storage.s3 import S3Store
from tests.pipelines.mesh_cases import LODS, files, made_neurons, mesh, report, without_pictures, write_labels


class Read(NamedTuple):
    """What an element has read, and what it had to."""

    bytes: int
    requests: int
    own_bytes: int
    pieces: int
    packs: int


@pytest.mark.parametrize("options", [[], ["--max_fragment_bytes=1000"]])
def test_elements_read_their_own_pieces_and_no_more(
    options: list[str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_LABELS_PER_MINISHARD", 1)
    monkeypatch.setattr(sharding, "_LABEL_MINISHARD_BITS", 1)
    requests = list[int]()
    read_range = S3Store.read_range

    def counted(store: S3Store, name: str, start: int, length: int) -> bytes | None:
        requests.append(length)
        return read_range(store, name, start, length)

    monkeypatch.setattr(S3Store, "read_range", counted)
    reads = {name: watch(monkeypatch, name, requests) for name in ("forge_cell", "join_cells", "write_meshes")}
    for folder in ("expected", "layer"):
        write_labels(tmp_path / folder, made_neurons())
        with without_pictures():
            scratch = [f"--scratch={bucket}/scratch"] if folder == "layer" else []
            assert mesh(tmp_path / folder, *LODS, *options, *scratch) == 0
        found = {name: list(watched) for name, watched in reads.items()}
        for watched in reads.values():
            watched.clear()
    assert files(tmp_path / "layer") == files(tmp_path / "expected")
    assert len(found["write_meshes"]) > 4
    for name, elements in found.items():
        for read in elements:
            assert read.bytes == read.own_bytes, name
            # Of a label that is split all is read at once, and others then.
            assert read.requests <= (read.pieces if options else read.packs), name
        assert sum(read.requests for read in elements) > 20, name
    split = report(tmp_path / "layer")["stages"]["shards"]["labels_with_fragments_that_were_split"]
    assert (split > 0) == bool(options)


def watch(monkeypatch: pytest.MonkeyPatch, name: str, requests: list[int]) -> list[Read]:
    """Let the elements of a step take note of what they read."""
    original, found = getattr(transforms.mesh, name), list[Read]()

    def watched(*args: Any) -> Any:
        parcels: Sequence[Parcel] = args[-1]
        before = len(requests)
        result = original(*args)
        own = [parcel.pieces["length"] for parcel in parcels]
        pieces, own_bytes = sum(len(lengths) for lengths in own), sum(int(lengths.sum()) for lengths in own)
        # Before it is made, its own pack is looked for, with a question for its size alone.
        found.append(Read(sum(requests[before:]), len(requests) - before, own_bytes, pieces, len(own)))
        return result

    monkeypatch.setattr(transforms.mesh, name, watched)
    return found
