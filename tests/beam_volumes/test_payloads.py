"""Packs and parcels: bytes that travel by reference come back as they were, or are known to be damaged."""

import os
import random
import tempfile
import threading
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import parcels as parcels_module
from beam_volumes import payloads as payloads_module
from beam_volumes.errors import CorruptDataError, DestinationError, SourceError
from beam_volumes.geometry import Box
from beam_volumes.parcels import Owner, Parcel, ParcelReader, Parcels, ParcelWriter, read_parcels
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
    """Whether packs are read as those on a disk, or in an object store: by requests, here of 16 bytes."""
    if request.param == "remote":
        monkeypatch.setattr(payloads_module, "is_local", lambda _: False)
        monkeypatch.setattr(payloads_module, "_REQUEST_BYTES", 16)
    return str(request.param)


@pytest.mark.usefixtures("kind")
def test_payloads_come_back_in_any_order(folder: Folder) -> None:
    packs = {name: write(folder, name, PARTS[::step]) for name, step in (("a.pack", 1), ("b/c.pack", -1))}
    asked = [(name, i) for name, placed in packs.items() for i in range(len(placed))] * 3
    random.Random(1).shuffle(asked)
    with PackReader(folder.url) as reader:
        found = reader.read([(name, packs[name][i]) for name, i in asked])
        assert list(found) == [PARTS[:: 1 if name == "a.pack" else -1][i] for name, i in asked]
    assert packs["a.pack"][1] == Payload(5, 0, 0)
    assert packs["a.pack"][2] == Payload(5, 100, crc32c.crc32c(b"x" * 100))


class Requests:
    """Takes note of what is read of the files in a folder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int, int]] = []
        self._read_range = Folder.read_range
        patch.setattr(payloads_module, "is_local", lambda _: False)
        patch.setattr(Folder, "read_range", lambda *args: self._read(*args))

    def _read(self, folder: Folder, name: str, start: int, length: int) -> bytes | None:
        self.made.append((name, start, length))
        return self._read_range(folder, name, start, length)

    @property
    def bytes(self) -> int:
        return sum(length for _, _, length in self.made)


@given(st.lists(st.binary(max_size=40), max_size=12), st.randoms(use_true_random=False))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_from_afar_just_what_is_asked_for_is_read(parts: list[bytes], order: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        folder = Folder(place)
        asked = list(enumerate(write(folder, "p", parts)))
        asked = order.sample(asked, order.randint(0, len(asked)))
        patch.setattr(payloads_module, "_REQUEST_BYTES", 16)
        requests = Requests(patch)
        with PackReader(folder.url) as reader:
            assert list(reader.read([("p", payload) for _, payload in asked])) == [parts[n] for n, _ in asked]
        assert requests.bytes == sum(payload.length for _, payload in asked)
        longest = max((payload.length for _, payload in asked), default=0)
        assert all(0 < length <= max(longest, 16) for _, _, length in requests.made)


def test_what_stands_side_by_side_is_read_with_one_request(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = {name: write(folder, name, [bytes([i]) * 8 for i in range(12)]) for name in "pq"}
    monkeypatch.setattr(payloads_module, "_REQUEST_BYTES", 32)
    requests = Requests(monkeypatch)
    with PackReader(folder.url) as reader:
        asked = [(name, placed[name][i]) for i in (11, 2, 3, 4, 5, 6, 7, 9) for name in "pq"]
        assert [data[0] for data in reader.read(asked)] == [i for i in (11, 2, 3, 4, 5, 6, 7, 9) for _ in "pq"]
    ranges = [(16, 32), (48, 16), (72, 8), (88, 8)]
    assert sorted(requests.made) == [(name, *place) for name in "pq" for place in ranges]


def test_several_requests_are_made_at_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = {f"{n}": write(folder, f"{n}", [b"%d" % n])[0] for n in range(4)}
    meeting, read_range = threading.Barrier(4, timeout=20), Folder.read_range

    def met(*args: Any) -> bytes | None:
        meeting.wait()
        return read_range(*args)

    monkeypatch.setattr(payloads_module, "is_local", lambda _: False)
    monkeypatch.setattr(Folder, "read_range", met)
    with PackReader(folder.url) as reader:
        assert list(reader.read(list(placed.items()))) == [b"0", b"1", b"2", b"3"]


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
        order = (0, 1, 0, 2, 0, 3, 4, 1)
        assert list(reader.read([(f"{n}", placed[n]) for n in order])) == [b"%d" % n for n in order]
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
        assert list(reader.read([("p.pack", placed[4])])) == [b"last"]
        with pytest.raises(
            CorruptDataError, match=r"p\.pack: expected 100 bytes at 5 with crc32c 0x.*give the same command again"
        ):
            list(reader.read([("p.pack", placed[2])]))


@pytest.mark.usefixtures("kind")
def test_a_pack_cut_off_within_a_payload_is_known(folder: Folder) -> None:
    placed = write(folder, "p.pack", PARTS)
    path = path_of(folder, "p.pack")
    path.write_bytes(path.read_bytes()[:60])
    with PackReader(folder.url) as reader, pytest.raises(CorruptDataError, match="came others"):
        list(reader.read([("p.pack", placed[2])]))


@pytest.mark.usefixtures("kind")
def test_a_pack_that_is_gone_is_named(folder: Folder) -> None:
    placed = write(folder, "p.pack", PARTS)
    path_of(folder, "p.pack").unlink()
    with PackReader(folder.url) as reader, pytest.raises(SourceError, match=r"scratch/p\.pack: .*same command again"):
        list(reader.read([("p.pack", placed[0])]))


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


def read_all(folder: Folder, parcels: Parcels) -> dict[Owner, Any]:
    found = {}
    for shard, parcel in parcels:
        with ParcelReader(folder.url, [parcel]) as reader:
            found[shard] = list(reader.chunks())
    return found


@pytest.mark.parametrize("held_bytes", [20, 10**6])
@pytest.mark.parametrize("inline_bytes", [0, 10, 22, 23, 36, 37, 10**9])
def test_pieces_come_by_chunk_and_place_however_they_travel(
    folder: Folder, inline_bytes: int, held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard has 23 bytes, the other 37."""
    monkeypatch.setattr(parcels_module, "HELD_BYTES", held_bytes)
    with ParcelWriter(folder.url, "region-0.pack", inline_bytes) as out:
        fill(out)
        parcels = out.finish({"holes": []})
    packed = inline_bytes < 37 or held_bytes == 20
    inline = {0: 0, 23: 23, 36: 23, 37: 60, 10**9: 60}.get(inline_bytes, 0) if held_bytes > 20 else 0
    assert sum(len(parcel.data) for _, parcel in parcels) == inline
    assert {parcel.pack for _, parcel in parcels if not parcel.data} <= {"region-0.pack"}
    assert folder.exists("region-0.pack") == packed
    assert read_all(folder, parcels) == EXPECTED
    if packed:
        taken = read_parcels(folder.url, "region-0.pack")
        assert taken is not None
        assert read_all(folder, taken[0]) == EXPECTED


def test_what_is_more_has_a_pack_for_a_later_run(folder: Folder) -> None:
    with ParcelWriter(folder.url, "p", 2**11) as out:
        for n in range(1100):
            out.add(Owner(0, n), 1, BOXES[0], bytes(1000))
        parcels = out.finish({})
    assert {(parcel.pack, len(parcel.data)) for _, parcel in parcels} == {("", 1000)}
    taken = read_parcels(folder.url, "p")
    assert taken is not None
    assert {(parcel.pack, len(parcel.data)) for _, parcel in taken[0]} == {("p", 0)}
    assert read_all(folder, taken[0]) == read_all(folder, parcels)


def test_owners_without_bytes_are_told(folder: Folder) -> None:
    with ParcelWriter(folder.url, "p", 0) as out:
        for n in range(2):
            out.add(Owner(0, n), 7, BOXES[n], b"")
        parcels = out.finish({})
    assert read_all(folder, parcels) == {Owner(0, n): [(7, [(BOXES[n], b"")])] for n in range(2)}


def shuffled_pieces(packs: int, owners: int, chunks: int) -> list[list[tuple[int, int, bytes]]]:
    """Return owner, chunk and bytes of pieces, in packs, by hashes of their chunks: 500 to 1,500 bytes each."""
    random_ = random.Random(3)
    found = [[(chunk * 7919 % owners, chunk, random_.randbytes(random_.randint(500, 1500))) for chunk in range(chunks)]]
    return found * packs


@pytest.mark.parametrize("held_bytes", [10**5, 10**9])
def test_of_remote_packs_an_owner_reads_its_own_pieces(
    folder: Folder, held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one request for each pack, or for each time that a pack was filled from memory."""
    monkeypatch.setattr(parcels_module, "HELD_BYTES", held_bytes)
    made, fills = defaultdict[Owner, list[Parcel]](list), 1 if held_bytes > 10**6 else 11
    expected = defaultdict[int, list[tuple[int, list[bytes]]]](list)
    for n, pieces in enumerate(shuffled_pieces(3, 20, 1000)):
        with ParcelWriter(folder.url, f"{n}.pack", 100) as out:
            for number, chunk, data in pieces:
                out.add(Owner(0, number), chunk, BOXES[n], data)
                if not n:
                    expected[number].append((chunk, [data] * 3))
            for key, parcel in out.finish({}):
                made[key].append(parcel)
    requests = Requests(monkeypatch)
    for owner, parcels in made.items():
        requests.made.clear()
        with ParcelReader(folder.url, parcels) as reader:
            chunks = [(chunk, [data for _, data in found]) for chunk, found in reader.chunks()]
        assert chunks == expected[owner.number]
        assert requests.bytes == 3 * sum(len(data) for _, [data, *_] in expected[owner.number])
        assert 3 <= len(requests.made) <= 3 * fills


def test_what_is_read_at_a_time_is_bounded(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here to 20,000 bytes, 512 for each piece among them."""
    monkeypatch.setattr(parcels_module, "_READ_BYTES", 20_000)
    with ParcelWriter(folder.url, "p", 0) as out:
        for chunk in range(100):
            out.add(Owner(0, 0), chunk, BOXES[0], bytes(1000))
        [(_, parcel)] = out.finish({})
    requests = Requests(monkeypatch)
    with ParcelReader(folder.url, [parcel]) as reader:
        found = reader.read(range(100))
        next(found)
        assert requests.bytes == 14_000
        assert len(list(found)) == 99
    assert requests.bytes == 100_000
    assert len(requests.made) <= 8


def test_pieces_of_one_table_are_joined(folder: Folder) -> None:
    kind = np.dtype([("label", "<u8"), ("voxels", "<u4")])
    rows = np.array([(n, n * n) for n in range(10)], kind)
    with ParcelWriter(folder.url, "p", 0) as out:
        for chunk, first, last in ((2, 4, 10), (1, 0, 4), (3, 0, 0)):
            out.add(Owner(0, 0), chunk, BOXES[0], rows[first:last].tobytes())
        [(_, parcel)] = out.finish({})
    with ParcelReader(folder.url, [parcel]) as reader:
        assert reader.table(kind).tolist() == rows.tolist()


def test_a_million_parcels_are_made_one_by_one() -> None:
    """A part of the labels tells very many cells, each of little."""
    with ParcelWriter("file:///nowhere", "p", 100) as out:
        tracemalloc.start()
        for n in range(50_000):
            out.add(Owner(0, n), 1, BOXES[0], b"16 bytes of data")
        parcels = out.finish({})
        count = sum(parcel.data == b"16 bytes of data" for _, parcel in parcels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 50_000
    assert peak < 50_000 * 400


def test_parcels_of_several_regions_are_joined(folder: Folder) -> None:
    parcels: list[Parcel] = []
    for region, pieces in enumerate([[(5, 1), (2, 0)], [(5, 0), (7, 2)], []]):
        with ParcelWriter(folder.url, f"region-{region}.pack", 0 if region else 10**9) as out:
            for chunk, box in pieces:
                out.add(Owner(0, 0), chunk, BOXES[box], b"%d%d" % (chunk, box))
            parcels += [parcel for _, parcel in out.finish({})]
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
    taken = read_parcels(folder.url, "region-0.pack")
    assert taken is not None
    assert (dict(taken[0]), taken[1]) == (dict(parcels), note)
    assert read_parcels(folder.url, "region-1.pack") is None


def test_a_damaged_pack_is_not_taken_up(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with ParcelWriter(folder.url, "region-0.pack", 0) as out:
        fill(out)
        out.finish({})
    path = path_of(folder, "region-0.pack")
    path.write_bytes(path.read_bytes()[:-30])
    assert read_parcels(folder.url, "region-0.pack") is None
    assert caplog.messages == [f"{folder.url}/region-0.pack is damaged, and made anew"]


def test_an_interrupted_region_leaves_no_pack(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels_module, "HELD_BYTES", 30)

    def interrupted() -> None:
        with ParcelWriter(folder.url, "region-0.pack", 0) as out:
            fill(out)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_parcels(folder.url, "region-0.pack") is None
    assert [*path_of(folder, "").iterdir()] == []
