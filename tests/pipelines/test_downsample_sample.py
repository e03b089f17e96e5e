"""The mips of a real segmentation, against those made in one piece: whatever the cuts, the encodings and the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.geometry import Vec
from beam_volumes.storage import Folder
from pipelines import downsample, export
from tests.pipelines.conftest import Array, pyramid_in_one_piece, with_cloudvolume, with_tensorstore, written

OFFSET = (-40, 8, 3)
"""Of the sample; of the crop below."""
CROP, CROP_OFFSET = (slice(101, 358), slice(150, 293), slice(33, 130)), (-37, 13, -5)
"""Odd in size, and at an odd offset."""
FACTORS: dict[str, list[Vec]] = {"2,2,1": [(2, 2, 1)] * 5, "2,2,2": [(2, 2, 2)] * 3}
MEMORY = [2_100_000, 6_000_000, 60_000_000]
"""Three sizes of blocks and cells; the first is as little as can be."""


def cuts(report: dict[str, Any]) -> tuple[int, int]:
    """Return how many cells and tiles there were."""
    cells = report["stages"].get("cells", {"done": 0, "tiles": 0})
    return cells["done"], cells["tiles"]


@pytest.fixture(scope="module")
def crop(sample: Array) -> Array:
    return np.asfortranarray(sample[CROP][..., np.newaxis])


@pytest.fixture(scope="module")
def expected(crop: Array) -> dict[str, list[tuple[Vec, Array]]]:
    return {name: pyramid_in_one_piece(crop, CROP_OFFSET, factors, "mode") for name, factors in FACTORS.items()}


@pytest.fixture(scope="module")
def source(sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The crop in chunk files."""
    url = f"file://{tmp_path_factory.mktemp('crop')}"
    start = [a + s.start for a, s in zip(OFFSET, CROP, strict=True)]
    stop = [a + s.stop for a, s in zip(OFFSET, CROP, strict=True)]
    move = [b - a for a, b in zip(start, CROP_OFFSET, strict=True)]
    place = [f"--bounds={','.join(map(str, start + stop))}", f"--translate={','.join(map(str, move))}"]
    options = ["--chunk_size=32,32,16", "--sharded=false", "--compress=none", "--processes=1"]
    assert export.main([f"--src={sample_url}", f"--dst={url}", *place, *options]) == 0
    return url


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("sharded", "encoding"), [(True, "compressed_segmentation"), (False, "raw")])
def test_cuts_leave_no_trace(
    source: str,
    crop: Array,
    expected: dict[str, list[tuple[Vec, Array]]],
    factor: str,
    sharded: bool,
    encoding: str,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "layer"
    copy(source, folder)
    url, found = f"file://{folder}", []
    before = written(folder)
    mips = [f"--factor={factor}", f"--num_mips={len(FACTORS[factor])}", "--chunk_size=32,32,16"]
    files = [f"--encoding={encoding}", f"--sharded={sharded}", "--compress=none"]
    for memory in MEMORY:
        command = [f"--layer={url}", *mips, *files, f"--memory_target={memory}", "--processes=1", "--overwrite"]
        assert downsample.main(command) == 0
        scales = (Folder(url).read_json("info") or {})["scales"]
        report = Folder(url).read_json(f"{scales[1]['key']}/report.json") or {}
        assert report["stages"]["regions"]["voxels_read"] == crop.size
        found.append((cuts(report), {s["key"]: s.get("sharding") for s in scales}, written(folder)))
        for mip, (offset, voxels) in enumerate(expected[factor], 1):
            assert (tuple(scales[mip]["voxel_offset"]), tuple(scales[mip]["size"])) == (offset, voxels.shape[:3])
            np.testing.assert_array_equal(with_cloudvolume(url, mip), voxels)
            np.testing.assert_array_equal(with_tensorstore(url, mip), voxels)
    assert len({cut for cut, _, _ in found}) == len(MEMORY)
    for _, sharding, bytes_of in found[1:]:
        same = [key for key, spec in sharding.items() if spec == found[0][1][key]]
        assert len(same) > 1 if sharded else len(same) == len(sharding)
        for key in same:
            mine, first = ({k: v for k, v in f.items() if k.startswith(f"{key}/")} for f in (bytes_of, found[0][2]))
            assert mine == first
    assert {name: found[-1][2][name] for name in before if name != "info"} == {
        name: data for name, data in before.items() if name != "info"
    }


def copy(source: str, folder: Path) -> None:
    for name in Folder(source).list():
        data = Folder(source).read(name)
        assert data is not None
        Folder(f"file://{folder}").write(name, data)


def test_the_whole_sample_in_one_job(sample: Array, sample_url: str, tmp_path: Path) -> None:
    url, factor = f"file://{tmp_path}/seg", "2,2,1"
    mips = [f"--factor={factor}", f"--num_mips={len(FACTORS[factor])}", "--encoding=compressed_segmentation"]
    command = [f"--src={sample_url}", f"--dst={url}", *mips, "--memory_target=400000000", "--processes=2"]
    assert export.main(command) == 0
    report = Folder(url).read_json("report.json") or {}
    assert report["stages"]["regions"]["voxels_read"] == sample.size
    assert report["peak_memory_bytes"] < 900_000_000
    whole = pyramid_in_one_piece(sample[..., np.newaxis], OFFSET, FACTORS[factor], "mode")
    for mip, (_, voxels) in enumerate(whole, 1):
        np.testing.assert_array_equal(with_cloudvolume(url, mip), voxels)
        np.testing.assert_array_equal(with_tensorstore(url, mip), voxels)
    assert np.array_equal(with_cloudvolume(url)[..., 0], sample)
