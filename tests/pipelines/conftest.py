"""What tests of several pipelines share: sources, commands in processes of their own, and what they leave behind."""

import contextlib
import gzip
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import crackle
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
from cloudvolume import CloudVolume

from beam_volumes.geometry import Vec
from pipelines import export
from tests.object_store import running_store

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
    with running_store(monkeypatch, "volumes") as url:
        yield url


MIPS = [
    *("--chunk_size=8,8,64", "--factor=2,2,1;2,2,2", "--num_mips=4"),
    *("--memory_target=263000", "--encoding=raw"),
]
"""Of `layer` 6 regions of 256 slices, which make mip 1; cells as follows; 3 shards of mip 1, and 3 others."""
CELLS = {1: 24, 2: 6, 3: 1}
"""By level: for mip 2, for mip 3, for mip 4."""


@pytest.fixture(scope="session")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of one mip, in files of 4 slices; not to be changed."""
    folder = tmp_path_factory.mktemp("fine") / "volume"
    options = ["--chunk_size=128,128,4", "--encoding=raw", "--compress=none", "--sharded=false", "--processes=1"]
    src = "--src=made://neurons?size=64,32,1536&chunk=128,128,4&dtype=uint8"
    assert export.main([src, f"--dst=file://{folder}", *options]) == 0
    return folder


@pytest.fixture
def layer(fine: Path, tmp_path: Path) -> Path:
    """A copy of `fine` to add mips to."""
    return copy_of(fine, tmp_path / "layer")


def copy_of(volume: Path, folder: Path) -> Path:
    """Return a copy; files that are replaced are this copy's own."""
    return Path(shutil.copytree(volume, folder, copy_function=os.link))


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


def check_refusal(status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Make sure that a command was refused, in one line that matches `message`, and has said nothing else."""
    out, err = capsys.readouterr()
    assert (status, out, len(err.splitlines())) == (2, "", 1), (status, out, err)
    assert re.search(message, only_error(err)), err


def check_holes_are_accepted_each_time(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Make sure that what is complete with one hole is refused without --fill_missing, and done with it."""
    capsys.readouterr()
    assert run() == 2
    line = only_error(capsys.readouterr().err)
    assert re.search(
        r"--fill_missing: expected it, because .* is complete with 1 .* that --fill_missing accep", line
    ), line
    assert line.endswith("give it again to take that as it is, or --overwrite to make it anew")
    assert run("--fill_missing") == 0
    assert "nothing to do" in capsys.readouterr().err


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


def children(process: subprocess.Popen[Any]) -> list[int]:
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


def pyramid_in_one_piece(
    array: Array, offset: Vec, factors: Sequence[Vec], method: str, *, sparse: bool = False
) -> list[tuple[Vec, Array]]:
    """Return the offset and the XYZC voxels of each mip, made in the plainest way of the whole volume."""
    made, total, before = list[tuple[Vec, Array]](), np.ones(3, int), (offset, array)
    for factor in factors:
        total *= factor
        # The average is that of the voxels of mip 0, all else is made of the mip before.
        fine, step = ((offset, array), tuple(total)) if method == "average" else (before, factor)
        start, voxels = fine[0], coarser(fine[1], fine[0], step, method, sparse)
        x, y, z = (n // f for n, f in zip(start, step, strict=True))
        before = ((x, y, z), voxels)
        made.append(before)
    return made


def coarser(array: Array, offset: Vec, factor: Sequence[int], method: str, sparse: bool) -> Array:
    """Return the next mip of XYZC voxels; slab by slab, to hold no more than one slab's blocks."""
    depth = factor[2]
    first, last = offset[2], offset[2] + array.shape[2]
    slabs = []
    for z in range(first // depth, -(-last // depth)):
        low, high = max(z * depth, first), min((z + 1) * depth, last)
        slab = array[:, :, low - first : high - first]
        blocks, inside = _blocks(slab, (offset[0], offset[1], low), factor)
        slabs.append(_one_of_each(blocks, inside, method, sparse).astype(array.dtype, copy=False))
    return np.concatenate(slabs, axis=2)


def _blocks(array: Array, offset: Vec, factor: Sequence[int]) -> tuple[Array, Array]:
    """Return the voxels of each block, (X, Y, Z, C, voxels of a block), x fastest, and which of them are there."""
    before = [n % f for n, f in zip(offset, factor, strict=True)]
    after = [-(b + n) % f for b, n, f in zip(before, array.shape, factor, strict=False)]
    pads = [*zip(before, after, strict=True), (0, 0)]
    inside = np.pad(np.ones((*array.shape[:3], 1), bool), pads)
    return _cut(np.pad(array, pads), factor), _cut(inside, factor)


def _cut(array: Array, factor: Sequence[int]) -> Array:
    fx, fy, fz = factor
    x, y, z, channels = array.shape
    cut = array.reshape(x // fx, fx, y // fy, fy, z // fz, fz, channels)
    return cut.transpose(0, 2, 4, 6, 5, 3, 1).reshape(x // fx, y // fy, z // fz, channels, fx * fy * fz)


def _one_of_each(blocks: Array, inside: Array, method: str, sparse: bool) -> Array:
    if method == "average":
        return _average(blocks, inside)
    if method == "min":
        return np.where(inside, blocks, blocks.max(axis=-1, keepdims=True)).min(axis=-1)
    if method == "max":
        return np.where(inside, blocks, blocks.min(axis=-1, keepdims=True)).max(axis=-1)
    if method == "stride":
        votes = inside.astype(np.int16)
    else:
        counted = inside & (blocks != 0) if sparse else inside
        votes = np.broadcast_to(np.where(inside, 0, -1), blocks.shape).astype(np.int16)
        for i in range(blocks.shape[-1]):
            votes += (blocks == blocks[..., i : i + 1]) & counted[..., i : i + 1] & inside
    # The first of those that have the most.
    chosen = np.broadcast_to(votes, blocks.shape).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(blocks, chosen, axis=-1)[..., 0]


def _average(blocks: Array, inside: Array) -> Array:
    count = inside.sum(axis=-1)
    if blocks.dtype.kind == "f":
        return np.where(inside, blocks.astype(np.float64), 0).sum(axis=-1) / count
    # Python's integers are exact whatever the type.
    wide = object if blocks.dtype.itemsize == 8 else np.int64
    total = np.where(inside, blocks.astype(wide), 0).sum(axis=-1)
    count = count.astype(wide)
    down, rest = total // count, total % count
    up = (2 * rest > count) | ((2 * rest == count) & (down % 2 == 1))
    return down + up
