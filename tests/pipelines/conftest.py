"""What tests of several pipelines share: sources, commands in processes of their own, and what they leave behind."""

import contextlib
import gzip
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import crackle
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
from cloudvolume import CloudVolume
from moto.server import ThreadedMotoServer

from beam_volumes.storage import Folder, s3

SAMPLE = Path(__file__).parents[3] / "shared/data/pinky40_512.ckl.gz"
ROOT = Path(__file__).parents[2]
SECONDS = 60.0
"""Nothing here takes so long, unless it hangs."""

Array = npt.NDArray[Any]
Stamp = tuple[int, int, int]


@pytest.fixture(scope="session")
def sample() -> npt.NDArray[np.uint32]:
    """A real segmentation, 512 x 512 x 512, XYZ."""
    if not SAMPLE.exists():
        pytest.skip(f"no sample at {SAMPLE}")
    return np.asfortranarray(crackle.decompress(gzip.decompress(SAMPLE.read_bytes())))


@pytest.fixture(scope="session")
def sample_url(sample: npt.NDArray[np.uint32], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample as a Precomputed volume with an offset and a mesh."""
    url = f"file://{tmp_path_factory.mktemp('sample')}"
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint32", "compressed_segmentation", (16, 16, 40), (-40, 8, 3), sample.shape, mesh="mesh"
    )
    volume = CloudVolume(url, info=info, progress=False, compress=False)
    volume.commit_info()
    volume[:] = sample[..., np.newaxis]
    return url


@pytest.fixture
def temporary_files_of_the_killed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what killed commands leave behind out of the machine's folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    """The folder of a volume that is not there yet."""
    return tmp_path / "volume"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an object store on this machine."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3._client_of_process.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="volumes")
    client.close()
    yield "s3://volumes"
    Folder("s3://volumes").delete_folder("")
    s3._client().close()
    s3._client_of_process.cache_clear()
    server.stop()


def with_cloudvolume(url: str, mip: int = 0) -> Array:
    return np.asarray(CloudVolume(url, mip=mip, progress=False)[:])


def with_tensorstore(url: str, mip: int = 0) -> Array:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{url}/", "scale_index": mip}
    array: Array = tensorstore.open(spec).result().read().result()
    return array


def write_source(url: str, array: Array, offset: tuple[int, int, int] = (0, 0, 0), **info: Any) -> None:
    """Write an XYZC array with CloudVolume."""
    fields = {"layer_type": "image", "encoding": "raw", "chunk_size": (32, 32, 16)} | info
    made = CloudVolume.create_new_info(
        num_channels=array.shape[3],
        data_type=str(array.dtype),
        resolution=(16, 16, 40),
        voxel_offset=offset,
        volume_size=array.shape[:3],
        **fields,
    )
    volume = CloudVolume(url, info=made, progress=False)
    volume.commit_info()
    volume[:] = array


def written(folder: Path) -> dict[str, bytes]:
    """Return all files of a volume, but those that tell of the run."""
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    files = {str(path.relative_to(folder)): path for path in paths if path.name not in ("report.json", "provenance")}
    return {name: path.read_bytes() for name, path in files.items()}


def stamps(folder: Path) -> dict[str, Stamp]:
    """Return what shows that a file was written again."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if not path.is_dir()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found.items()}


def tree(folder: Path) -> dict[str, Stamp]:
    """Return what shows any write below a folder: inode, size and time of everything in it."""
    found = {str(path.relative_to(folder)): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {name: (s.st_ino, s.st_size if stat.S_ISREG(s.st_mode) else 0, s.st_mtime_ns) for name, s in found.items()}


def only_error(text: str) -> str:
    """Return the one line that tells the error; there is no traceback."""
    assert "Traceback" not in text
    [line] = [line for line in text.splitlines() if line.lower().startswith("error")]
    assert line.startswith("error: ")
    return line


def rows_of(printed: str) -> dict[str, str]:
    """Return what is printed as lines of `name: value`."""
    pairs = [line.split(": ", 1) for line in printed.splitlines() if line.startswith("  ")]
    return {name.strip(): value.strip() for name, value in pairs}


@contextlib.contextmanager
def started(pipeline: str, *options: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a session of its own, which is gone at the end whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{pipeline}", *options],
        cwd=ROOT,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.001)


def alive(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def peak_memory_bytes(pid: int) -> int:
    """Return the most that a process has held so far; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
