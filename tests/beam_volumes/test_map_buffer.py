import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapbuffer import MapBuffer

from beam_volumes import map_buffer
from beam_volumes.errors import CorruptDataError, SourceError
from beam_volumes.storage import Folder

VALUES = st.dictionaries(st.integers(0, 2**64 - 1), st.binary(max_size=40), max_size=40)


def a_map(entries: int, value_bytes: int) -> dict[int, bytes]:
    rng = np.random.default_rng(1)
    return {7 * n + 3: rng.bytes(value_bytes) for n in range(entries)}


class Requests(Folder):
    """A folder that notes what is read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.bytes_read = 0

    def read(self, name: str) -> bytes | None:
        return self._noted(super().read(name))

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        return self._noted(super().read_range(name, start, length))

    def _noted(self, data: bytes | None) -> bytes | None:
        self.bytes_read += len(data or b"")
        return data


def encode(values: Iterable[tuple[int, bytes]], compression: str) -> bytes:
    packed = {key: map_buffer.pack_value(value, compression) for key, value in values}
    return map_buffer.join_packed(packed, compression)


@given(values=VALUES)
@settings(derandomize=True, deadline=None)
def test_the_bytes_are_those_of_mapbuffer(values: dict[int, bytes]) -> None:
    assert encode(values.items(), "none") == MapBuffer(dict(values)).tobytes()


@pytest.mark.parametrize("compression", ["br", "gzip", "none"])
def test_mapbuffer_reads_ours(compression: str) -> None:
    values = a_map(100, 50)
    found = MapBuffer(encode(values.items(), compression))
    assert found.validate()
    assert {int(key): value for key, value in found.items()} == values
    assert found[7 * 99 + 3] == values[7 * 99 + 3]


@pytest.mark.parametrize("compress", ["br", "gzip", None])
@pytest.mark.parametrize("compute_crc", [True, False])
@pytest.mark.parametrize("keys", [None, [3, 17, 5_000]])
def test_ours_reads_those_of_mapbuffer(
    tmp_path: Path, compress: Any, compute_crc: bool, keys: list[int] | None
) -> None:
    values = a_map(200, 300)
    (tmp_path / "a").write_bytes(MapBuffer(dict(values), compress=compress, compute_crc=compute_crc).tobytes())
    found = dict(map_buffer.read_values(Folder(str(tmp_path)), "a", keys))
    assert found == (values if keys is None else {key: values[key] for key in (3, 17)})


@given(values=VALUES, data=st.data())
@settings(derandomize=True, deadline=None)
def test_any_keys_are_found(tmp_path_factory: pytest.TempPathFactory, values: dict[int, bytes], data: Any) -> None:
    path = tmp_path_factory.mktemp("maps")
    (path / "a").write_bytes(encode(values.items(), "none"))
    keys = data.draw(st.sets(st.sampled_from([*values, 12_345])))
    found = dict(map_buffer.read_values(Folder(str(path)), "a", keys))
    assert found == {key: value for key, value in values.items() if key in keys}


@pytest.mark.parametrize("entries", [1_000, 10_000])
def test_of_a_large_file_only_the_index_and_what_is_wanted_is_read(tmp_path: Path, entries: int) -> None:
    values = a_map(entries, 1_000)
    (tmp_path / "a").write_bytes(encode(values.items(), "none"))
    keys = [3, 10, 7 * (entries // 2) + 3, 7 * (entries - 1) + 3]
    folder = Requests(str(tmp_path))
    assert dict(map_buffer.read_values(folder, "a", keys)) == {key: values[key] for key in keys}
    assert folder.bytes_read < max(64 << 10, 16 + 16 * entries) + 4 * (33 << 10)


def test_of_a_file_of_which_most_is_wanted_all_is_read(tmp_path: Path) -> None:
    values = a_map(100, 5_000)
    data = encode(values.items(), "none")
    (tmp_path / "a").write_bytes(data)
    folder = Requests(str(tmp_path))
    assert dict(map_buffer.read_values(folder, "a", list(values)[:90])) == dict(list(values.items())[:90])
    assert folder.bytes_read == len(data) + (64 << 10)


def test_an_empty_map(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encode([], "br"))
    assert list(map_buffer.read_values(Folder(str(tmp_path)), "a")) == []
    assert list(map_buffer.read_values(Folder(str(tmp_path)), "a", [1])) == []


def patched(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


GOOD = encode([(5, b"five"), (6, b"six")], "none")


@pytest.mark.parametrize("keys", [None, [5, 6]])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a MapBuffer of version 0 or 1, came 0 bytes"),
        (b"{}", "came 2 bytes that begin with b'{}': write the file again"),
        (patched(GOOD, 7, b"\2"), "version 0 or 1"),
        (GOOD[:40], "expected 48 bytes for 2 entries, came 40"),
        (patched(GOOD, 12, b"\xff\xff"), "expected 1048576 bytes for 65535 entries, came 63"),
        (patched(GOOD, 40, struct.pack("<Q", 1000)), "expected the places of 2 values in 48 to 63"),
        (patched(GOOD, 24, struct.pack("<Q", 49)), "expected the places of 2 values"),
        (patched(GOOD, 52, b"???"), "expected the value that was written for (5|6), came bytes with another checksum"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, data: bytes, message: str, keys: list[int] | None) -> None:
    (tmp_path / "a").write_bytes(data)
    folder = Folder(str(tmp_path))
    with pytest.raises(CorruptDataError, match=message):
        list(map_buffer.read_values(folder, "a", keys))


def test_values_that_cannot_be_decompressed_are_told(tmp_path: Path) -> None:
    data = MapBuffer({5: b"no gzip"}, compute_crc=False).tobytes()
    (tmp_path / "a").write_bytes(patched(data, 8, b"gzip"))
    with pytest.raises(CorruptDataError, match="a: the value of 5: expected gzip data, came 7 bytes"):
        list(map_buffer.read_values(Folder(str(tmp_path)), "a"))


def test_compressions_that_are_not_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(MapBuffer({5: b"five"}, compress="lzma").tobytes())
    with pytest.raises(SourceError, match="expected values compressed with one of none, gzip, br, came b'lzma'"):
        list(map_buffer.read_values(Folder(str(tmp_path)), "a"))


@pytest.mark.parametrize("keys", [None, [5]])
def test_a_missing_file_is_told(tmp_path: Path, keys: list[int] | None) -> None:
    with pytest.raises(SourceError, match="a: expected a MapBuffer, but there is no such file"):
        list(map_buffer.read_values(Folder(str(tmp_path)), "a", keys))
