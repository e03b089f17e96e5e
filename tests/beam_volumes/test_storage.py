"""URLs, and folders on a disk."""

import contextlib
import errno
import gzip
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from beam_volumes.errors import CorruptDataError, DestinationError, OptionError, SourceError
from beam_volumes.storage import Folder, is_local, join, local_path, normalize, stored_name
from beam_volumes.storage.urls import redacted


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/data/volume/", "file:///data/volume"),
        ("file:///data//volume", "file:///data/volume"),
        ("file:///", "file:///"),
        ("precomputed://gs://bucket/volume", "gs://bucket/volume"),
        ("gs://bucket/a/b/", "gs://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("https://host/a/", "https://host/a"),
        ("http://localhost:80/a", "http://localhost:80/a"),
    ],
)
def test_a_location_has_one_form(given: str, expected: str) -> None:
    assert normalize(given) == expected
    assert normalize(expected) == expected


def test_relative_and_home_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert normalize("volume") == f"file://{tmp_path}/volume"
    assert normalize("~/volume") == f"file://{tmp_path}/home/volume"


@pytest.mark.parametrize("url", ["", "  ", "ftp://host/x", "gs://", "gs:///", "file://", "s3://"])
def test_other_locations_are_refused(url: str) -> None:
    with pytest.raises(
        OptionError, match=r"expected a local path, file:///path, gs://bucket/path, s3://bucket/path or"
    ):
        normalize(url)


@pytest.mark.parametrize("url", ["https://host/a?X-Signature=s3cr3t", "https://me:s3cr3t@host/a", "ftp://a?t=s3cr3t"])
def test_secrets_in_a_location_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        normalize(url)
    assert "s3cr3t" not in str(caught.value)


def test_secrets_of_remote_errors_are_not_shown() -> None:
    text = "POST https://u:pw@host/up?upload_id=s3cr3t: 403, Authorization: Bearer s3cr3t, token=s3cr3t"
    assert redacted(text) == "POST https://...@host/up?... 403, Authorization ..., token ..."


def test_parts_of_urls(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    assert join(url, "a", "", "b/c") == f"file://{tmp_path}/a/b/c"
    assert local_path(url) == tmp_path
    assert is_local(url)
    assert not is_local("gs://bucket")
    with pytest.raises(OptionError, match="expected a local path"):
        local_path("gs://bucket")
    assert [stored_name(url, "a", c) for c in ("gzip", "br", "none")] == ["a.gz", "a.br", "a"]
    assert stored_name("gs://bucket", "a", "gzip") == "a"


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a/b/c", b"first")
    folder.write("a/b/c", b"0123456789")
    folder.write_compressed("a/chunk", b"packed", "gzip")
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert pickle.loads(pickle.dumps(folder)).read("a/b/c") == b"0123456789"
    assert (tmp_path / "a/chunk.gz").read_bytes() == b"packed"
    assert [folder.read_range("a/b/c", 2, n) for n in (3, 100, 0)] == [b"234", b"23456789", b""]
    assert folder.read_range("a/b/c", 10, 5) == b""
    assert [folder.size(name) for name in ("a/b/c", "none", "a")] == [10, None, None]
    assert sorted(folder.entries("a/")) == [("a/b/c", 10, None), ("a/chunk.gz", 6, None)]
    assert list(folder.read_many(["a/b/c", "none"])) == [folder.read("a/b/c"), None]
    assert [folder.exists(name) for name in ("a/b/c", "a", "none")] == [True, False, False]


def test_absent_files_are_none(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "absent"))
    (tmp_path / "file").write_bytes(b"")
    assert folder.read("x") is None
    assert folder.read_range("x", 0, 1) is None
    assert folder.read_range("x", 0, 0) is None
    assert folder.read_json("x") is None
    assert list(folder.list()) == []
    assert Folder(str(tmp_path / "file")).read("below") is None
    folder.delete(["x"])
    folder.delete_folder("")


def test_names_are_sorted_and_start_with_the_prefix(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    names = ["8_8_8/1", "8_8_80/1", "8_8_8/0/a", "info", ".beam_volumes/claim.json", "8_8_8.txt"]
    for name in names:
        folder.write(name, b"")
    assert list(folder.list()) == sorted(names)
    assert list(folder.list("8_8_8/")) == ["8_8_8/0/a", "8_8_8/1"]
    assert list(folder.list("8_8_8")) == ["8_8_8.txt", "8_8_8/0/a", "8_8_8/1", "8_8_80/1"]
    folder.delete_folder("8_8_8")
    assert list(folder.list("8")) == ["8_8_8.txt", "8_8_80/1"]
    assert not (tmp_path / "8_8_8").exists()


def test_json_is_an_object_or_corrupt(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("good", b'{"a": 1}')
    folder.write("packed", gzip.compress(b'{"a": 2}'))
    assert folder.read_json("good") == {"a": 1}
    assert folder.read_json("packed") == {"a": 2}
    for data, came in [
        (b'{"a"', "4 bytes"),
        (b"\xff\xfe\x00", "3 bytes"),
        (b"\x1f\x8bxx", "4 bytes"),
        (b"[1]", "a JSON list"),
    ]:
        folder.write("bad", data)
        with pytest.raises(CorruptDataError, match=rf"file://{tmp_path}/bad: expected a JSON object, came {came}"):
            folder.read_json("bad")


def test_a_stream_can_be_written_anew_and_read(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with folder.write_stream("deep/shard") as out:
        out.write(bytes(4))
        out.write(b"body" * 1000)
        out.seek(0)
        out.write(b"head")
        out.seek(0)
        assert out.read(8) == b"headbody"
        assert list(folder.list()) == []
    assert folder.read("deep/shard") == b"head" + b"body" * 1000
    assert os.listdir(tmp_path / "deep") == ["shard"]


def _write_half(folder: Folder, error: Exception) -> None:
    with folder.write_stream("shard") as out:
        out.write(b"half")
        raise error


def test_an_interrupted_stream_leaves_what_was_there(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("shard", b"before")
    with pytest.raises(ValueError, match="half-way"):
        _write_half(folder, ValueError("half-way"))
    assert folder.read("shard") == b"before"
    assert os.listdir(tmp_path) == ["shard"]


def test_errors_of_the_caller_are_not_the_destinations(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(OSError, match="elsewhere"):
        _write_half(folder, OSError(errno.EIO, "elsewhere"))
    assert os.listdir(tmp_path) == []


_WRITER = """
import sys
from beam_volumes.storage import Folder
with Folder(sys.argv[1]).write_stream("scale/shard") as out:
    out.write(bytes(1 << 22))
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing_that_is_seen(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "scale")) == 1
    assert list(folder.list()) == []
    assert folder.read("scale/shard") is None
    folder.write("scale/other", b"x")
    folder.delete_abandoned()
    assert os.listdir(tmp_path / "scale") == ["other"]
    folder.delete_folder("")
    assert not tmp_path.exists()


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


_FULL = """
import os, sys
from beam_volumes.errors import DestinationError
from beam_volumes.storage import Folder
folder, failures = Folder(sys.argv[1]), []
try:
    with folder.write_stream("big") as out:
        for _ in range(64):
            out.write(bytes(1 << 16))
except DestinationError as error:
    failures.append(str(error))
for write in (folder.write, folder.create):
    try:
        write("big", bytes(1 << 21))
    except DestinationError as error:
        failures.append(str(error))
print(chr(10).join(failures))
"""


def test_what_does_not_fit_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write itself fails, as there."""
    command = [sys.executable, "-W", "error", "-c", _FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=_limit_file_size)
    lines = done.stdout.splitlines()
    assert [line.partition(", came ")[0] for line in lines] == [
        f"file://{tmp_path}/big: expected to write a file",
        f"file://{tmp_path}/big: expected to write 2097152 bytes",
        f"file://{tmp_path}/big: expected to write 2097152 bytes",
    ]
    assert all("File too large (EFBIG)" in line for line in lines)
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []


def _fail_with(code: int) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    monkeypatch.setattr(os, "replace", _fail_with(errno.ENOSPC))
    expected = rf"file://{tmp_path}/a: expected to write .*, came No space left on device \(ENOSPC\): free space there"
    with pytest.raises(DestinationError, match=expected):
        folder.write("a", b"x")
    with pytest.raises(DestinationError, match=expected), folder.write_stream("a") as out:
        out.write(b"x")
    assert os.listdir(tmp_path) == []


def test_what_is_in_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("file", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DestinationError, match=r"file/x: expected to write 1 bytes, came .*\((ENOTDIR|EEXIST)\)"):
        folder.write("file/x", b"x")
    with pytest.raises(DestinationError, match=r"came Is a directory \(EISDIR\): move that folder away"):
        folder.write("folder", b"x")
    with pytest.raises(SourceError, match=r"folder: expected to read, came Is a directory \(EISDIR\)"):
        folder.read("folder")
    monkeypatch.setattr(os, "unlink", _fail_with(errno.EACCES))
    with pytest.raises(
        DestinationError, match=r"expected to delete, came Permission denied \(EACCES\): give this user"
    ):
        folder.delete(["file"])


def test_a_file_is_created_once(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert folder.create("records/claim.json", b"first")
    assert not folder.create("records/claim.json", b"second")
    assert folder.read("records/claim.json") == b"first"
    assert os.listdir(tmp_path / "records") == ["claim.json"]


def test_a_file_is_created_once_without_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _fail_with(errno.EPERM))
    test_a_file_is_created_once(tmp_path)


_RACER = """
import sys
from beam_volumes.storage import Folder
folder = Folder(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(*(n for n in range(500) if folder.create(f"claim-{n}", sys.argv[2].encode() * 1000)))
"""


def test_of_two_processes_one_creates(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [[int(n) for n in racer.communicate(timeout=30)[0].split()] for racer in racers]
    assert sorted(won[0] + won[1]) == list(range(500))
    folder = Folder(str(tmp_path))
    for name, numbers in zip((b"a", b"b"), won, strict=True):
        assert all(folder.read(f"claim-{n}") == name * 1000 for n in numbers)
    assert len(os.listdir(tmp_path)) == 500


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_bytes(b"x")
    (tmp_path / "volume/scale").mkdir(parents=True)
    (tmp_path / "volume/scale/link").symlink_to(tmp_path / "kept")
    Folder(str(tmp_path / "volume")).delete_folder("scale")
    assert os.listdir(tmp_path / "volume") == []
    assert (tmp_path / "kept/file").read_bytes() == b"x"
    (tmp_path / "linked").symlink_to(tmp_path / "kept")
    Folder(str(tmp_path / "linked")).delete_folder("")
    assert os.listdir(tmp_path / "kept") == []
    Folder(str(tmp_path / "linked")).write("a", b"")
    assert os.listdir(tmp_path / "kept") == ["a"]


def test_a_folder_removed_at_the_same_time_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = os.makedirs

    def make_and_lose(path: str, *, exist_ok: bool) -> None:
        make(path, exist_ok=exist_ok)
        made.append(path)
        if len(made) == 1:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    monkeypatch.setattr(os, "makedirs", make_and_lose)
    folder = Folder(str(tmp_path))
    folder.write("a/b", b"x")
    folder.write("a/c", b"x")
    assert made == [f"{tmp_path}/a", f"{tmp_path}/a"]
    assert list(folder.list()) == ["a/b", "a/c"]
