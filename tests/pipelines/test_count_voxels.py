"""Voxel counts against numpy, whatever disturbs them: exact, or one clear line."""

import importlib.util
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from cloudvolume import CloudVolume
from mapbuffer import IntMap

from beam_volumes import reading_plan, voxel_count_plan, voxel_counting
from beam_volumes.errors import SourceError
from beam_volumes.geometry import Box
from beam_volumes.runs import Claim
from beam_volumes.sources import describe_source, open_reader
from beam_volumes.storage import Folder
from pipelines import count_voxels, export
from pipelines.beam_options import beam_options
from pipelines.count_voxels import Config, main, plan
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import (
    check_holes_are_accepted_each_time,
    only_error,
    rows_of,
    stamps,
    started,
    tree,
    wait_until,
    write_source,
)
from transforms.pool import Execution

SCALE = "16_16_40"
SIZE = (150, 130, 70)
OFFSET = (-33, 7, 1_001)
COLUMNS = ["label", "voxels", "volume_nm3", "background"]
CORNERS = ["x0", "y0", "z0", "x1", "y1", "z1"]


def made_labels(seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return labels like root ids, in lumps, with background, XYZC."""
    rng = np.random.default_rng(seed)
    lumps = rng.choice(np.arange(400, dtype=np.uint64) + np.uint64(0x0A00_0000_0000_0000), (22, 19, 10))
    lumps[rng.random(lumps.shape) < 0.2] = 0
    labels = lumps.repeat(7, 0).repeat(7, 1).repeat(7, 2)[: SIZE[0], : SIZE[1], : SIZE[2]]
    return np.asfortranarray(labels[..., np.newaxis])


@pytest.fixture
def many_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small volumes into regions, too."""
    monkeypatch.setattr(reading_plan, "_STORED", reading_plan._Sizes(64, 2**14, 2**17))


@pytest.fixture
def labels() -> npt.NDArray[np.uint64]:
    return made_labels()


@pytest.fixture
def layer(tmp_path: Path, labels: npt.NDArray[np.uint64]) -> Path:
    """A segmentation at an odd place and of odd size."""
    folder = tmp_path / "layer"
    write_source(f"file://{folder}", labels, OFFSET, layer_type="segmentation")
    return folder


def count(layer: Path | str, *options: str, processes: int = 1) -> int:
    url = layer if isinstance(layer, str) else f"file://{layer}"
    return main([f"--layer={url}", f"--processes={processes}", *options])


def counts_of(layer: Path, scale: str = SCALE) -> dict[int, int]:
    table = pq.read_table(layer / scale / "stats/voxel_counts.parquet").to_pydict()
    found = dict(zip(table["label"], table["voxels"], strict=True))
    assert list(found) == sorted(found)
    assert table["background"] == [label == 0 for label in found]
    mapped = IntMap((layer / scale / "stats/voxel_counts.im").read_bytes())
    assert {int(label): int(voxels) for label, voxels in mapped.items()} == found
    assert all(mapped[label] == voxels for label, voxels in list(found.items())[:50])
    return found


def expected(labels: npt.NDArray[Any]) -> dict[int, int]:
    found, counts = np.unique(labels, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def report(layer: Path, scale: str = SCALE) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((layer / scale / "stats/voxel_counts.json").read_text())
    return content


def packs(layer: Path) -> list[Path]:
    return list((layer / ".beam_volumes").rglob("*.pack"))


@pytest.mark.usefixtures("many_regions")
@pytest.mark.parametrize("processes", [1, 3])
def test_counts_equal_those_of_numpy(layer: Path, labels: npt.NDArray[np.uint64], processes: int) -> None:
    assert count(layer, processes=processes) == 0
    assert counts_of(layer) == expected(labels)
    done = report(layer)
    assert done["stages"]["counts"]["voxels_of_background"] == int((labels == 0).sum())
    assert done["stages"]["regions"]["voxels"] == labels.size
    assert done["stages"]["regions"]["done"] > 20
    assert done["files"] == {
        name: (layer / SCALE / "stats" / name).stat().st_size
        for name in ("voxel_counts.im", "voxel_counts.parquet", "voxel_counts.png")
    }
    assert sorted(path.name for path in layer.iterdir()) == [SCALE, "info"]


@pytest.mark.usefixtures("many_regions")
def test_a_tree_of_merges_counts_the_same(
    layer: Path, labels: npt.NDArray[np.uint64], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxel_count_plan, "FAN_IN", 8)
    assert count(layer) == 0
    assert counts_of(layer) == expected(labels)
    merges = report(layer)["stages"]["merges"]
    assert merges["done"] == merges["planned"] > 6


def test_boxes_are_absolute_and_half_open(layer: Path, labels: npt.NDArray[np.uint64]) -> None:
    assert count(layer, "--bounding_boxes") == 0
    table = pq.read_table(layer / SCALE / "stats/voxel_counts.parquet")
    assert table.column_names == COLUMNS + CORNERS
    for row in table.to_pylist()[::7]:
        places = np.argwhere(labels[..., 0] == row["label"]) + OFFSET
        assert [row[name] for name in CORNERS] == [*places.min(axis=0), *(places.max(axis=0) + 1)]
        assert row["volume_nm3"] == row["voxels"] * 16 * 16 * 40


@pytest.mark.usefixtures("many_regions")
def test_files_do_not_depend_on_memory_or_processes(layer: Path) -> None:
    found = []
    for options, processes in ((["--memory_target=600000"], 1), ([], 2), ([], 1)):
        assert count(layer, "--bounding_boxes", "--overwrite", *options, processes=processes) == 0
        folder = layer / SCALE / "stats"
        found.append({p.name: p.read_bytes() for p in folder.iterdir() if p.name != "voxel_counts.json"})
    assert len(found[0]) == 3
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_a_coarser_mip_of_a_pyramid(tmp_path: Path, sharded: str) -> None:
    folder = tmp_path / "pyramid"
    made = ["--src=made://neurons?size=200,180,60&offset=11,-5,3", f"--dst=file://{folder}", "--num_mips=2"]
    assert export.main([*made, f"--sharded={sharded}", "--processes=1"]) == 0
    for mip, scale in ((2, "64_64_40"), (0, SCALE)):
        assert count(folder, f"--mip={mip}") == 0
        volume = CloudVolume(f"file://{folder}", mip=mip, progress=False)
        assert counts_of(folder, scale) == expected(np.asarray(volume[:]))
        assert report(folder, scale)["mip"] == mip


def test_the_sample(sample: npt.NDArray[np.uint32], sample_url: str, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    shutil.copytree(sample_url.removeprefix("file://"), layer)
    assert count(layer, "--bounding_boxes", f"--scratch={tmp_path}/scratch", processes=2) == 0
    assert counts_of(layer) == expected(sample)
    table = pq.read_table(layer / SCALE / "stats/voxel_counts.parquet").to_pydict()
    assert sum(table["voxels"]) == 512**3
    assert [min(table[name]) for name in CORNERS[:3]] == [-40, 8, 3]
    assert [max(table[name]) for name in CORNERS[3:]] == [472, 520, 515]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_bounds_count_a_part(layer: Path, labels: npt.NDArray[np.uint64]) -> None:
    box = Box((-20, 30, 1_010), (77, 100, 1_050))
    assert count(layer, f"--bounds={box}") == 0
    assert counts_of(layer) == expected(labels[box.slices(OFFSET)])
    assert report(layer)["voxels"] == str(box)


def test_counts_in_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = describe_source("made://neurons?size=96,80,32", 0)
    voxels, _ = open_reader(made, fill_missing=False).read(made.box)
    Folder(f"{bucket}/layer").write("info", json.dumps(made.info).encode())
    # CloudVolume does not know of this machine's object store: only what is written goes there.
    monkeypatch.setattr(count_voxels, "describe_source", lambda *_, **__: made)
    assert count(f"{bucket}/layer") == 0
    folder = Folder(f"{bucket}/layer")
    scale = made.info["scales"][0]["key"]
    files = [f"{scale}/stats/voxel_counts.{ending}" for ending in ("im", "json", "parquet", "png")]
    assert sorted(folder.list()) == [*files, "info"]
    found = IntMap(folder.read(files[0]))
    assert {int(label): int(voxels) for label, voxels in found.items()} == expected(voxels)


def test_the_plan_tells_and_writes_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(layer)
    assert count(layer, "--plan") == 0
    rows = rows_of(capsys.readouterr().out)
    assert tree(layer) == before
    assert rows["voxels"].endswith("= 150 x 130 x 70 of uint64")
    assert rows["destination"] == f"file://{layer}/{SCALE}/stats/ (new)"
    assert 40 < int(rows["labels, estimated"].replace(",", "")) < 5_000
    assert set(rows) >= {"boxes to read", "bytes of voxels", "bytes of the map, estimated", "memory per worker, bytes"}


def test_the_same_command_again_does_nothing(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert count(layer) == 0
    before = stamps(layer)
    assert count(layer) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert stamps(layer) == before
    assert count(layer, "--bounding_boxes") == 2
    assert "bounding_boxes was false, now true" in only_error(capsys.readouterr().err)
    assert count(layer, "--bounding_boxes", "--overwrite") == 0
    (layer / SCALE / "stats/voxel_counts.im").unlink()
    capsys.readouterr()
    assert count(layer, "--bounding_boxes") == 1
    assert "voxel_counts.im (missing, not" in only_error(capsys.readouterr().err)


@pytest.mark.usefixtures("many_regions")
def test_an_interrupted_count_goes_on(
    layer: Path, labels: npt.NDArray[np.uint64], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--bounding_boxes"]
    original = voxel_counting.count_region

    def broken(plan: Any, region: int) -> Any:
        if len(packs(layer)) == 2:
            raise SourceError("the disk is on fire")
        return original(plan, region)

    with monkeypatch.context() as patch:
        patch.setattr("transforms.count_voxels.count_region", broken)
        assert count(layer, *options) == 1
        assert "the disk is on fire" in only_error(capsys.readouterr().err)
        assert len(packs(layer)) == 2
        assert not list((layer / SCALE / "stats").glob("*")) or not (layer / SCALE / "stats/voxel_counts.im").exists()
        patch.setattr("transforms.count_voxels.count_region", original)
        assert count(layer, *options) == 0
    assert counts_of(layer) == expected(labels)
    assert report(layer)["stages"]["taken up from an interrupted run"] == {"regions_and_merges": 2}
    assert packs(layer) == []


@pytest.mark.usefixtures("temporary_files_of_the_killed")
def test_a_killed_count_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "layer"
    made = ["--src=made://neurons?size=512,512,64", f"--dst=file://{folder}", "--processes=2"]
    assert export.main(made) == 0
    with started("count_voxels", f"--layer=file://{folder}", "--processes=2") as process:
        wait_until(lambda: len(packs(folder)) >= 1, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = len(packs(folder))
    assert count(folder, processes=2) == 0
    assert counts_of(folder) == expected(np.asarray(CloudVolume(f"file://{folder}", progress=False)[:]))
    assert report(folder)["stages"]["taken up from an interrupted run"]["regions_and_merges"] >= left - 2


def test_a_missing_chunk_fails_or_is_background(
    layer: Path, labels: npt.NDArray[np.uint64], capsys: pytest.CaptureFixture[str]
) -> None:
    (chunk,) = (layer / SCALE).glob("-1-31_39-71_1017-1033*")
    chunk.unlink()
    assert count(layer) == 1
    assert "but one is missing" in only_error(capsys.readouterr().err)
    assert count(layer, "--fill_missing") == 0
    hole = Box((-1, 39, 1_017), (31, 71, 1_033))
    labels[hole.slices(OFFSET)] = 0
    assert counts_of(layer) == expected(labels)
    assert report(layer)["holes"] == [str(hole)]
    check_holes_are_accepted_each_time(lambda *options: count(layer, *options), capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mip=3"], r"--mip: expected one of \[0\], the mips of file://"),
        (["--bounds=0,0,0,9,9,9"], "--bounds: expected voxels of"),
        (["--memory_target=1000"], "--memory_target: expected at least"),
        (["--scratch=https://host/path"], "--scratch: expected a place to write to"),
        (["--encoding=raw"], "--encoding: neither this pipeline nor Apache Beam has this option"),
    ],
)
def test_options_that_cannot_work_are_refused(
    layer: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(layer)
    assert count(layer, *options) == 2
    assert re.search(message, only_error(capsys.readouterr().err))
    assert tree(layer) == before


@pytest.mark.parametrize(
    ("data_type", "layer_type", "channels"),
    [("uint8", "image", 1), ("int32", "segmentation", 1), ("uint8", "image", 2)],
)
def test_what_holds_no_labels_is_refused(
    tmp_path: Path, data_type: str, layer_type: str, channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(f"file://{tmp_path}/image", np.ones((32, 32, 16, channels), data_type), layer_type=layer_type)
    assert count(tmp_path / "image") == 2
    assert "--layer: expected a segmentation, of an unsigned integer type" in only_error(capsys.readouterr().err)


@pytest.mark.parametrize("url", ["made://neurons?size=32,32,32", "https://host/seg", "file:///nowhere/at/all"])
def test_places_without_a_layer_to_write_to_are_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert count(url) == 2
    assert only_error(capsys.readouterr().err).startswith("error: --layer: ")


def test_files_of_others_are_replaced_only_when_told(
    layer: Path, labels: npt.NDArray[np.uint64], capsys: pytest.CaptureFixture[str]
) -> None:
    (layer / SCALE / "stats").mkdir()
    (layer / SCALE / "stats/voxel_counts.im").write_bytes(b"other")
    assert count(layer) == 2
    assert "there is 16_16_40/stats/voxel_counts.im, without a report" in only_error(capsys.readouterr().err)
    assert count(layer, "--overwrite") == 0
    assert counts_of(layer) == expected(labels)


def test_memory_may_be_changed_while_a_count_is_resumed(layer: Path) -> None:
    setting = Setting(local=True, workers=1, inline_bytes=0)
    facts = []
    for memory in ("8000000", "3500000000"):
        config, _ = parse(Config, [f"--layer=file://{layer}", f"--memory_target={memory}"])
        facts.append(plan(config, setting).claim.identity)
    assert facts[0] == facts[1]


@pytest.mark.skipif(importlib.util.find_spec("apitools") is None, reason="DataflowRunner needs pip install -e '.[gcp]'")
def test_a_count_of_any_size_builds_for_dataflow(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []
    for size in ("256,256,64", "100000,100000,10000"):
        made = describe_source(f"made://neurons?size={size}", 0)
        monkeypatch.setattr(count_voxels, "describe_source", lambda *_, made=made, **__: made)
        monkeypatch.setattr(
            count_voxels, "inspect_destination", lambda there, facts, **_: Claim.of(there, facts, "new", None)
        )
        config, _ = parse(Config, ["--layer=gs://my-bucket/layer"])
        job = plan(config, Setting(local=False, workers=200, inline_bytes=2**20))
        options = beam_options(
            [
                "--runner=DataflowRunner",
                "--dry_run=True",
                "--project=my-project",
                "--region=us-central1",
                "--temp_location=gs://my-bucket/temp",
                "--staging_location=gs://my-bucket/staging",
                "--sdk_container_image=us-central1-docker.pkg.dev/my-project/beam-volumes/count_voxels:tag",
            ]
        )
        pipeline = beam.Pipeline(options=options)
        job.build(pipeline, Execution(1, None))
        assert pipeline.run().state == "DONE"
        graphs.append(
            ({name: total or 0 for name, total in job.stages.items()}, pipeline.runner.proto_pipeline.ByteSize())
        )
    (small, small_bytes), (large, large_bytes) = graphs
    assert small == {"regions": 1, "merges": 1}
    assert large["regions"] > 1_000_000
    assert large["merges"] < large["regions"] / 100
    # A thousand ranges of regions at most, and two more levels of merges.
    assert large_bytes < small_bytes + 100_000
