"""The export end to end, against the voxels of its source."""

import json
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.faults import Faults
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines import export
from tests.pipelines.conftest import Array, with_cloudvolume, with_tensorstore, write_source


def run_export(src: str, dst: str, *options: str, processes: int = 1) -> dict[str, Any]:
    assert export.main([f"--src={src}", f"--dst={dst}", f"--processes={processes}", *options]) == 0
    report: dict[str, Any] = json.loads(Path(dst.removeprefix("file://"), "report.json").read_text())
    return report


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso", "crackle"])
def test_the_sample_comes_back_voxel_for_voxel(
    sample: Array, sample_url: str, tmp_path: Path, encoding: str, sharded: bool
) -> None:
    url = f"file://{tmp_path}/seg"
    # tensorstore does not look for compressed chunk files on a disk, and reads zeros.
    compress = "gzip" if sharded else "none"
    options = [f"--encoding={encoding}", f"--sharded={sharded}", f"--compress={compress}", "--memory_target=400000000"]
    report = run_export(sample_url, url, *options, processes=2)
    assert np.array_equal(with_cloudvolume(url)[..., 0], sample)
    if encoding in ("raw", "compressed_segmentation"):
        assert np.array_equal(with_tensorstore(url)[..., 0], sample)
    assert report["stages"]["regions"]["voxels_read"] == sample.size
    assert report["stages"]["shards"]["chunks"] == 256
    assert report["peak_memory_bytes"] < 900_000_000
    assert sorted(p.name for p in (tmp_path / "seg").iterdir()) == ["16_16_40", "info", "provenance", "report.json"]


@pytest.fixture(scope="module")
def sample_server(sample: Array, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with demo_server(tmp_path_factory.mktemp("graph"), sample, (128, 128, 64), (-40, 8, 3)) as server:
        yield server


@pytest.mark.parametrize(
    ("timestamp", "stop_layer", "faults"),
    [
        (DEMO_TIMES[0], None, Faults()),
        (DEMO_TIMES[1], None, Faults(rate=0.05, status=503, seed=1)),
        (DEMO_TIMES[2], 2, Faults()),
    ],
)
def test_the_sample_as_it_was_at_a_moment(
    sample_server: ProofreadingServer, tmp_path: Path, timestamp: int, stop_layer: int | None, faults: Faults
) -> None:
    url = f"file://{tmp_path}/seg"
    graph = sample_server.graph
    options = [f"--timestamp={timestamp}", "--memory_target=400000000"]
    if stop_layer:
        options.append(f"--stop_layer={stop_layer}")
    with ProofreadingServer(graph, sample_server.watershed_url, faults=faults) as server:
        report = run_export(server.url, url, *options, processes=2)
        asked, unique = server.statistics.ids_asked, len(server.statistics.unique_ids)
        failures = sum(n for status, n in server.statistics.statuses.items() if status != 200)
    voxels = np.asfortranarray(with_cloudvolume(sample_server.watershed_url)[..., 0])
    supervoxels = fastremap.unique(voxels)
    assert unique == np.count_nonzero(supervoxels)
    assert asked <= 1.05 * unique
    assert report["server"]["ids_asked"] <= 1.05 * unique
    assert report["server"]["retries"] == failures
    assert report["peak_memory_bytes"] < 900_000_000
    assert (failures > 0) == (faults.rate > 0)
    expected = fastremap.remap_from_array_kv(
        voxels.ravel(order="K"), supervoxels, graph.roots(supervoxels, timestamp, stop_layer), in_place=True
    )
    assert np.array_equal(with_cloudvolume(url).ravel(order="K"), expected)
    method = json.loads((tmp_path / "seg/provenance").read_text())["processing"][0]["method"]
    assert (method["timestamp"], method["stop_layer"]) == (timestamp, stop_layer)
    assert method["server_table"] == server.url


@pytest.mark.parametrize("agglomerate", ["--agglomerate=false", "--noagglomerate"])
def test_supervoxels_as_they_are(tmp_path: Path, agglomerate: str) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (50, 40, 20)).astype(np.uint64)
    with demo_server(tmp_path, labels, (16, 16, 16)) as server:
        report = run_export(server.url, f"file://{tmp_path}/seg", agglomerate)
        assert np.array_equal(with_cloudvolume(f"file://{tmp_path}/seg"), with_cloudvolume(server.watershed_url))
        assert server.statistics.ids_asked == 0
    assert "server" not in report
    info = json.loads((tmp_path / "seg/info").read_text())
    assert info.keys() == {"@type", "type", "data_type", "num_channels", "scales"}


DATA_TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_every_data_type_at_odd_bounds(tmp_path: Path, data_type: str, channels: int) -> None:
    """Bounds that fall on no chunk, an offset, a translation, and chunks that do not divide anything."""
    random = np.random.default_rng(5)
    array = (random.integers(-100, 100, (67, 45, 31, channels)) * 1.25).astype(data_type)
    source, url = f"file://{tmp_path}/source", f"file://{tmp_path}/copy"
    write_source(source, array, (10, -20, 5))
    run_export(source, url, "--bounds=13,-17,6,71,20,33", "--translate=-5,7,100", "--chunk_size=20,17,9")
    expected = array[3:61, 3:40, 1:28]
    assert np.array_equal(with_cloudvolume(url), expected)
    assert np.array_equal(with_tensorstore(url), expected)
    assert tuple(CloudVolume(url).voxel_offset) == (8, -10, 106)
    assert with_cloudvolume(url).dtype == data_type


@pytest.mark.parametrize("sharded", [True, False])
def test_images_as_png_and_jpeg(tmp_path: Path, sharded: bool) -> None:
    x, y, z = np.ogrid[:70, :50, :20]
    array = np.asfortranarray(((x * 2 + y + z * 3) % 256).astype(np.uint8)[..., np.newaxis])
    write_source(f"file://{tmp_path}/source", array)
    for encoding, tolerance in [("png", 0), ("jpeg", 20)]:
        url = f"file://{tmp_path}/{encoding}"
        run_export(f"file://{tmp_path}/source", url, f"--encoding={encoding}", f"--sharded={sharded}")
        for read in (with_cloudvolume, with_tensorstore):
            difference = np.abs(read(url).astype(int) - array)
            assert np.percentile(difference, 90) <= tolerance, read.__name__


def test_a_coarser_mip_becomes_mip_0(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 9, (40, 30, 20, 1)).astype(np.uint32)
    source = f"file://{tmp_path}/source"
    write_source(source, np.zeros((80, 60, 20, 1), np.uint32), layer_type="segmentation", mesh="mesh")
    volume = CloudVolume(source, progress=False)
    volume.add_scale((2, 2, 1))
    volume.commit_info()
    CloudVolume(source, mip=1, progress=False)[:] = array
    run_export(source, f"file://{tmp_path}/coarse", "--mip=1")
    run_export(source, f"file://{tmp_path}/kept", "--mip=1", "--clean_info=false")
    assert np.array_equal(with_cloudvolume(f"file://{tmp_path}/coarse"), array)
    info = json.loads((tmp_path / "coarse/info").read_text())
    assert [(s["key"], s["resolution"], s["size"]) for s in info["scales"]] == [
        ("32_32_40", [32, 32, 40], [40, 30, 20])
    ]
    assert "mesh" not in info
    assert json.loads((tmp_path / "kept/info").read_text())["mesh"] == "mesh"


@pytest.mark.parametrize("compress", ["gzip", "br", "none"])
def test_single_chunk_files_of_every_compression(tmp_path: Path, compress: str) -> None:
    source, url = "made://neurons?size=70,50,20&seed=2", f"file://{tmp_path}/seg"
    run_export(source, url, "--sharded=false", f"--compress={compress}", "--chunk_size=32,32,16")
    run_export(source, f"file://{tmp_path}/sharded")
    assert np.array_equal(with_cloudvolume(url), with_cloudvolume(f"file://{tmp_path}/sharded"))
    suffix = {"gzip": ".gz", "br": ".br", "none": ""}[compress]
    names = {p.name for p in (tmp_path / "seg/16_16_40").iterdir()}
    assert len(names) == 12
    assert f"64-70_32-50_16-20{suffix}" in names


def test_one_process_and_many_write_the_same_bytes(tmp_path: Path) -> None:
    source = "made://neurons?size=300,200,70&seed=1"
    options = ["--chunk_size=32,32,16", "--memory_target=30000000"]
    for processes in (1, 3):
        report = run_export(source, f"file://{tmp_path}/{processes}", *options, processes=processes)
        assert report["stages"]["regions"]["done"] == 3
    one, three = (_files(tmp_path / str(n)) for n in (1, 3))
    assert one == three
    assert len(one) > 3


def _files(root: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name not in ("report.json", "provenance")}


def test_provenance_and_report_say_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "made://neurons?size=70,50,20"
    report = run_export(source, f"file://{tmp_path}/seg")
    assert report["stages"]["regions"]["planned"] == report["stages"]["regions"]["done"] == 1
    assert report["stages"]["shards"]["bytes"] == (tmp_path / "seg/16_16_40/0.shard").stat().st_size
    assert report["ended"] >= report["started"]
    assert report["versions"]["beam-volumes"]
    shown = capsys.readouterr().out
    assert f"file://{tmp_path}/seg is complete" in shown
    assert "regions: voxels read" in shown
    provenance = CloudVolume(f"file://{tmp_path}/seg").provenance
    assert provenance.sources == [source]
    method = provenance.processing[0]["method"]
    assert (method["task"], method["chunk_size"], method["src"]) == ("export", [128, 128, 32], source)
