"""Packs and parcels: bytes that travel by reference come back as they were, or are known to be damaged."""

import os
import random
from pathlib import Path
from typing import Any

import crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import payloads as payloads_module
from beam_volumes.errors import CorruptDataError, DestinationError, SourceError
from beam_volumes.geometry import Box
from beam_volumes.parcels import Owner, Parcel, ParcelReader, ParcelWriter, read_parcels
from beam_volumes.payloads import PackReader, PackWriter, Payload, read_pack_index
from beam_volumes.storage import Folder

INDEX = b"what is where"
PARTS = [b"first", b"", b"x" * 100, b"", b"last"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(f"file://{tmp_path}/scratch")


def write(folder: Folder, name: str, parts: list[bytes], index: bytes = INDEX) -> list[Payload]:
    with PackWriter(folder, name) as pack:
        placed = [pack.append(part) for part in parts]
        pack.finish(index)
    return placed


def path_of(folder: Folder, name: str) -> Path:
    return Path(folder.url.removeprefix("file://")) / name


@pytest.fixture(params=["local", "remote"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether packs are read as those on a disk, or in an object store: then in windows, here of 16 bytes."""
    if request.param == "remote":
        monkeypatch.setattr(payloads_module, "is_local", lambda _: False)
        monkeypatch.setattr(payloads_module, "_WINDOW_BYTES", 16)
        monkeypatch.setattr(payloads_module, "_WINDOWS", 3)
    return str(request.param)


@pytest.mark.usefixtures("kind")
def test_payloads_come_back_in_any_order(folder: Folder) -> None:
    packs = {name: write(folder, name, PARTS[::step]) for name, step in (("a.pack", 1), ("b/c.pack", -1))}
    asked = [(name, i) for name, placed in packs.items() for i in range(len(placed))] * 3
    random.Random(1).shuffle(asked)
    with PackReader(folder.url) as reader:
        for name, i in asked:
            assert reader.read(name, packs[name][i]) == PARTS[:: 1 if name == "a.pack" else -1][i]
    assert packs["a.pack"][1] == Payload(5, 0, 0)
    assert packs["a.pack"][2] == Payload(5, 100, crc32c.crc32c(b"x" * 100))


@given(st.lists(st.binary(max_size=70), max_size=12), st.randoms(use_true_random=False))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_windows_join_to_what_was_written(parts: list[bytes], order: random.Random) -> None:
    files: dict[str, bytes] = {}

    class Bucket:
        url = "s3://bucket/scratch"

        def read_range(self, name: str, start: int, length: int) -> bytes | None:
            return files[name][start : start + length] if name in files else None

    placed, offset = [], 0
    for part in parts:
        placed.append(Payload(offset, len(part), crc32c.crc32c(part)))
        offset += len(part)
    files["p"] = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads_module, "_WINDOW_BYTES", 16)
        patch.setattr(payloads_module, "_WINDOWS", 2)
        reader = PackReader("s3://bucket/scratch")
        patch.setattr(reader, "_folder", Bucket())
        for i in order.sample(range(len(parts)), len(parts)):
            assert reader.read("p", placed[i]) == parts[i]
        if offset:
            with pytest.raises(SourceError, match="s3://bucket/scratch/q: expected a pack, but it is gone"):
                reader.read("q", Payload(0, 1, 0))


def test_remote_windows_are_read_once_while_they_are_kept(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "is_local", lambda _: False)
    monkeypatch.setattr(payloads_module, "_WINDOW_BYTES", 16)
    monkeypatch.setattr(payloads_module, "_WINDOWS", 3)
    placed = write(folder, "p", [bytes([i]) * 8 for i in range(12)])
    reads: list[int] = []
    read_range = Folder.read_range

    def counted(self: Folder, name: str, start: int, length: int) -> bytes | None:
        reads.append(start)
        return read_range(self, name, start, length)

    monkeypatch.setattr(Folder, "read_range", counted)
    with PackReader(folder.url) as reader:
        for payload in (*placed[:6], *placed[:6], *placed[6:], placed[0]):
            reader.read("p", payload)
    assert reads == [0, 16, 32, 48, 64, 80, 0]


def test_only_so_many_files_stay_open(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "_OPEN_FILES", 2)
    closed: list[int] = []
    close = os.close

    def counted(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    placed = [write(folder, f"{n}", [b"%d" % n])[0] for n in range(5)]
    monkeypatch.setattr(os, "close", counted)
    with PackReader(folder.url) as reader:
        for n in (0, 1, 0, 2, 0, 3, 4, 1):
            assert reader.read(f"{n}", placed[n]) == b"%d" % n
        assert len(closed) == 4
    assert len(closed) == 6


@pytest.mark.usefixtures("kind")
def test_a_changed_payload_is_known(folder: Folder) -> None:
    placed = write(folder, "p.pack", PARTS)
    path = path_of(folder, "p.pack")
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with PackReader(folder.url) as reader:
        assert reader.read("p.pack", placed[4]) == b"last"
        with pytest.raises(
            CorruptDataError, match=r"p\.pack: expected 100 bytes at 5 with crc32c 0x.*give the same command again"
        ):
            reader.read("p.pack", placed[2])


@pytest.mark.usefixtures("kind")
def test_a_pack_cut_off_within_a_payload_is_known(folder: Folder) -> None:
    placed = write(folder, "p.pack", PARTS)
    path = path_of(folder, "p.pack")
    path.write_bytes(path.read_bytes()[:60])
    with PackReader(folder.url) as reader, pytest.raises(CorruptDataError, match="came others"):
        reader.read("p.pack", placed[2])


@pytest.mark.usefixtures("kind")
def test_a_pack_that_is_gone_is_named(folder: Folder) -> None:
    placed = write(folder, "p.pack", PARTS)
    path_of(folder, "p.pack").unlink()
    with PackReader(folder.url) as reader, pytest.raises(SourceError, match=r"scratch/p\.pack: .*same command again"):
        reader.read("p.pack", placed[0])


def test_an_index_comes_back(folder: Folder) -> None:
    for name, parts, index in [("a", PARTS, INDEX), ("b", [], INDEX), ("c", PARTS, b""), ("d", [], b"")]:
        write(folder, name, parts, index)
        assert read_pack_index(folder, name) == index
    assert read_pack_index(folder, "none") is None


def test_any_damage_to_an_index_or_tail_is_known(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    write(folder, "p", PARTS)
    path = path_of(folder, "p")
    whole = path.read_bytes()
    first = len(whole) - len(INDEX) - 24
    for at in range(first, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        caplog.clear()
        assert read_pack_index(folder, "p") is None
        assert caplog.messages == [f"{folder.url}/p is damaged, and made anew"]
    for length in (0, 1, 23, 24, 25, first, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_pack_index(folder, "p") is None


def test_a_pack_that_was_not_finished_does_not_appear(folder: Folder) -> None:
    def interrupted() -> None:
        with PackWriter(folder, "p") as pack:
            pack.append(b"data")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*path_of(folder, "").iterdir()] == []


def test_a_pack_that_cannot_be_written_is_told(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("a file where the folder should be")
    with pytest.raises(DestinationError, match=r"scratch/p: expected to write a file, came .*move the file"):
        write(folder, "p", PARTS)


# Parcels


BOXES = [Box.of_shape((4, 4, 4), (4 * i, -4, 8)) for i in range(6)]


def fill(writer: ParcelWriter) -> None:
    """Two shards; chunk 3 is in two pieces, the later one first."""
    for shard, chunk, box in ((1, 9, 0), (0, 3, 2), (0, 3, 1), (1, 8, 3), (0, 1, 4)):
        writer.add(Owner(0, shard), chunk, BOXES[box], bytes([box]) * (10 + box))


EXPECTED = {
    Owner(0, 0): [(1, [(BOXES[4], b"\4" * 14)]), (3, [(BOXES[1], b"\1" * 11), (BOXES[2], b"\2" * 12)])],
    Owner(0, 1): [(8, [(BOXES[3], b"\3" * 13)]), (9, [(BOXES[0], b"\0" * 10)])],
}


def read_all(folder: Folder, parcels: dict[Owner, Parcel]) -> dict[Owner, Any]:
    found = {}
    for shard, parcel in parcels.items():
        with ParcelReader(folder.url, [parcel]) as reader:
            found[shard] = list(reader.chunks())
    return found


@pytest.mark.parametrize("inline_bytes", [0, 10, 30, 59, 60, 10**9])
def test_pieces_come_by_chunk_and_place_however_they_travel(folder: Folder, inline_bytes: int) -> None:
    with ParcelWriter(folder.url, "region-0.pack", inline_bytes) as out:
        fill(out)
        parcels = out.finish({"holes": []})
    packed = inline_bytes < 60
    assert {p.pack for p in parcels.values()} == {"region-0.pack" if packed else ""}
    assert sum(len(p.data) for p in parcels.values()) == (0 if packed else 60)
    assert read_all(folder, parcels) == EXPECTED
    assert folder.exists("region-0.pack") == packed


def test_parcels_of_several_regions_are_joined(folder: Folder) -> None:
    parcels: list[Parcel] = []
    for region, pieces in enumerate([[(5, 1), (2, 0)], [(5, 0), (7, 2)], []]):
        with ParcelWriter(folder.url, f"region-{region}.pack", 0 if region else 10**9) as out:
            for chunk, box in pieces:
                out.add(Owner(0, 0), chunk, BOXES[box], b"%d%d" % (chunk, box))
            parcels += out.finish({}).values()
    with ParcelReader(folder.url, parcels) as reader:
        assert list(reader.chunks()) == [
            (2, [(BOXES[0], b"20")]),
            (5, [(BOXES[0], b"50"), (BOXES[1], b"51")]),
            (7, [(BOXES[2], b"72")]),
        ]


def test_a_shard_without_parcels_has_no_chunks(folder: Folder) -> None:
    with ParcelReader(folder.url, []) as reader:
        assert list(reader.chunks()) == []


def test_a_later_run_takes_parcels_up_with_their_note(folder: Folder) -> None:
    note = {"holes": [[[0, 0, 0], [1, 1, 1]]], "text": "two\nlines"}
    with ParcelWriter(folder.url, "region-0.pack", 0) as out:
        fill(out)
        parcels = out.finish(note)
    assert read_parcels(folder.url, "region-0.pack") == (parcels, note)
    assert read_parcels(folder.url, "region-1.pack") is None


def test_a_damaged_pack_is_not_taken_up(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with ParcelWriter(folder.url, "region-0.pack", 0) as out:
        fill(out)
        out.finish({})
    path = path_of(folder, "region-0.pack")
    path.write_bytes(path.read_bytes()[:-30])
    assert read_parcels(folder.url, "region-0.pack") is None
    assert caplog.messages == [f"{folder.url}/region-0.pack is damaged, and made anew"]


def test_an_interrupted_region_leaves_no_pack(folder: Folder) -> None:
    def interrupted() -> None:
        with ParcelWriter(folder.url, "region-0.pack", 0) as out:
            fill(out)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_parcels(folder.url, "region-0.pack") is None
    assert [*path_of(folder, "").iterdir()] == []
