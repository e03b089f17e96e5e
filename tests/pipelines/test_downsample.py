"""Downsampling end to end, against all mips made in one piece."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

import beam_volumes.source_worker
from beam_volumes.geometry import Box, Vec
from beam_volumes.sources import open_reader
from beam_volumes.storage import Folder
from pipelines import downsample, export
from tests.pipelines.conftest import (
    Array,
    pyramid_in_one_piece,
    rows_of,
    stamps,
    tree,
    with_cloudvolume,
    with_tensorstore,
    write_source,
    written,
)

SHAPE, OFFSET = (67, 45, 31), (-13, 7, -5)
"""Odd, and no multiple of anything."""
FACTORS = [(2, 2, 1), (3, 2, 2), (2, 2, 2)]
FACTOR = "--factor=2,2,1;3,2,2;2,2,2"
METHODS = ["mode", "average", "min", "max", "stride"]
SMALL = ["--chunk_size=16,16,8", "--processes=1"]


def volume_of(data_type: str, channels: int = 1, shape: Vec = SHAPE, seed: int = 0) -> Array:
    """Return voxels that are often the same as their neighbours, and reach to the limits of their type."""
    random = np.random.default_rng(seed)
    if data_type == "float32":
        values = (np.arange(-3, 4) * 1.25).astype(data_type)
    else:
        limits = np.iinfo(data_type)
        values = np.array([0, 1, 2, 5, limits.max // 2, limits.max - 1, limits.max], data_type)
    coarse = random.choice(values, (*(-(-n // 3) for n in shape), channels))
    voxels = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]]
    noise = random.random(voxels.shape) < 0.3
    voxels[noise] = random.choice(values, int(noise.sum()))
    return np.asfortranarray(voxels)


def run_downsample(url: str, *options: str) -> dict[str, Any]:
    assert downsample.main([f"--layer={url}", *SMALL, *options]) == 0
    return report(url)


def info(url: str) -> dict[str, Any]:
    return Folder(url).read_json("info") or {}


def report(url: str, mip: int = 1) -> dict[str, Any]:
    return Folder(url).read_json(f"{info(url)['scales'][mip]['key']}/report.json") or {}


def assert_mips(url: str, expected: Sequence[tuple[Vec, Array]], first: int = 1) -> None:
    """Compare every voxel, and its place, of the mips from `first` on; there are no others."""
    assert len(info(url)["scales"]) == first + len(expected)
    for mip, (offset, voxels) in enumerate(expected, first):
        volume = CloudVolume(url, mip=mip, progress=False)
        assert tuple(volume.voxel_offset) == offset
        assert volume.dtype == voxels.dtype
        np.testing.assert_array_equal(volume[:], voxels)


@pytest.mark.parametrize(
    ("data_type", "channels", "layer_type", "sum_bytes", "methods"),
    [
        ("uint8", 3, "image", 2, METHODS),
        ("uint8", 1, "segmentation", 2, ["mode", "max"]),
        ("uint16", 1, "image", 4, ["average", "mode"]),
        ("uint32", 1, "segmentation", 8, ["mode", "average", "stride"]),
        ("uint64", 2, "segmentation", 16, ["mode", "average"]),
        ("float32", 1, "image", 8, ["mode", "average", "min"]),
    ],
)
def test_every_type_and_method_at_odd_bounds(
    tmp_path: Path, data_type: str, channels: int, layer_type: str, sum_bytes: int, methods: list[str]
) -> None:
    # As little as the sums of averages need.
    memory = f"--memory_target={67_000 * channels * sum_bytes}"
    array, url = volume_of(data_type, channels), f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16), layer_type=layer_type)
    for method in methods:
        options = [FACTOR, "--num_mips=3", "--encoding=raw", "--overwrite", f"--method={method}"]
        made = run_downsample(url, *options, memory)
        expected = pyramid_in_one_piece(array, OFFSET, FACTORS, method)
        assert_mips(url, expected)
        assert made["stages"]["cells"]["done"] > 3
        assert made["stages"]["regions"]["voxels_read"] == array[..., 0].size
    for mip in range(1, 4):
        np.testing.assert_array_equal(with_tensorstore(url, mip), with_cloudvolume(url, mip))


def test_background_does_not_count_where_it_is_asked_for(tmp_path: Path) -> None:
    array, url = volume_of("uint64", seed=3), f"file://{tmp_path}/layer"
    array[np.random.default_rng(1).random(array.shape) < 0.6] = 0
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation")
    run_downsample(url, FACTOR, "--num_mips=3", "--sparse", "--memory_target=600000")
    sparse = pyramid_in_one_piece(array, OFFSET, FACTORS, "mode", sparse=True)
    assert_mips(url, sparse)
    assert (sparse[0][1] != pyramid_in_one_piece(array, OFFSET, FACTORS, "mode")[0][1]).any()


@pytest.mark.parametrize(("layer_type", "method"), [("segmentation", "mode"), ("image", "average")])
@pytest.mark.parametrize("sharded", [True, False])
def test_an_export_with_mips_is_an_export_and_a_downsampling(
    tmp_path: Path, layer_type: str, method: str, sharded: bool
) -> None:
    array, source = volume_of("uint8"), f"file://{tmp_path}/source"
    write_source(source, array, OFFSET, chunk_size=(16, 16, 16), layer_type=layer_type)
    once, twice = tmp_path / "once", tmp_path / "twice"
    shared = [*SMALL, f"--sharded={sharded}", "--memory_target=200000"]
    place = ["--translate=5,6,7", "--bounds=-11,8,-4,50,50,25", "--encoding=raw"]
    mips = ["--num_mips=3", FACTOR]
    assert export.main([f"--src={source}", f"--dst=file://{once}", *shared, *place, *mips]) == 0
    assert export.main([f"--src={source}", f"--dst=file://{twice}", *shared, *place]) == 0
    run_downsample(f"file://{twice}", *shared, *mips, "--encoding=raw")
    assert written(once) == written(twice)
    part, offset = array[2:63, 1:43, 1:30], (-6, 14, 3)
    np.testing.assert_array_equal(with_cloudvolume(f"file://{once}"), part)
    assert_mips(f"file://{once}", pyramid_in_one_piece(part, offset, FACTORS, method))
    made = json.loads((once / "report.json").read_text())
    assert made["stages"]["cells"]["done"] > 3
    assert made["stages"]["regions"]["voxels_read"] == part.size
    assert [scale["mip"] for scale in made["scales"]] == [0, 1, 2, 3]


def test_bounds_are_those_of_the_mip_that_is_read(tmp_path: Path) -> None:
    array, url = volume_of("uint32"), f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation")
    run_downsample(url, FACTOR, "--num_mips=3", "--bounds=-10,9,-4,40,50,23", "--memory_target=600000")
    assert_mips(url, pyramid_in_one_piece(array[3:53, 2:43, 1:28], (-10, 9, -4), FACTORS, "mode"))


def test_factors_that_make_cubes(tmp_path: Path) -> None:
    """Of 16 x 16 x 40 nm: three times as near to cubes as they come by 2, then all three axes."""
    array, url = volume_of("uint32"), f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation")
    run_downsample(url, "--isotropic", "--num_mips=3", "--memory_target=600000")
    assert [scale["resolution"] for scale in info(url)["scales"]] == [
        [16, 16, 40],
        [32, 32, 40],
        [64, 64, 80],
        [128, 128, 160],
    ]
    assert_mips(url, pyramid_in_one_piece(array, OFFSET, [(2, 2, 1), (2, 2, 2), (2, 2, 2)], "mode"))


@pytest.mark.parametrize(
    ("factor", "factors", "coarsest"),
    [
        ("2,2,1", [(2, 2, 1)] * 3, (9, 7, 31)),
        ("2,2,2", [(2, 2, 2)] * 3, (9, 7, 5)),
        ("9,9,9", [(9, 9, 9)], (8, 6, 4)),
    ],
)
def test_as_many_mips_as_it_takes(tmp_path: Path, factor: str, factors: list[Vec], coarsest: Vec) -> None:
    """Until the volume fits one chunk; along z, where factors make nothing smaller, it never does."""
    array, url = volume_of("uint32"), f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation")
    run_downsample(url, f"--factor={factor}", "--memory_target=4000000")
    expected = pyramid_in_one_piece(array, OFFSET, factors, "mode")
    assert expected[-1][1].shape[:3] == coarsest
    assert_mips(url, expected)


def test_chunks_are_those_of_the_layer_unless_others_are_asked_for(tmp_path: Path) -> None:
    array, url = volume_of("uint32"), f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 8, 16), layer_type="segmentation")
    options = [f"--layer={url}", "--num_mips=2", "--factor=2,2,2", "--memory_target=600000", "--processes=1"]
    for chunk, more in [([16, 8, 16], []), ([8, 8, 4], ["--chunk_size=8,8,4", "--overwrite"])]:
        assert downsample.main([*options, *more]) == 0
        assert [scale["chunk_sizes"] for scale in info(url)["scales"]] == [[[16, 8, 16]], [chunk], [chunk]]
        assert_mips(url, pyramid_in_one_piece(array, OFFSET, [(2, 2, 2)] * 2, "mode"))


class CountingReader:
    """Counts how often each voxel of a layer is read."""

    def __init__(self, reader: Any, counts: Array, offset: Vec) -> None:
        self._reader, self._counts, self._offset = reader, counts, offset

    def read(self, box: Box) -> Any:
        self._counts[box.slices(self._offset)] += 1
        return self._reader.read(box)


@pytest.mark.parametrize("pipeline", ["downsample", "export"])
def test_each_voxel_is_read_once(tmp_path: Path, pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array, source = volume_of("uint32"), f"file://{tmp_path}/source"
    write_source(source, array, OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation")
    counts = np.zeros(SHAPE, int)
    monkeypatch.setattr(
        beam_volumes.source_worker, "open_reader", lambda *a, **k: CountingReader(open_reader(*a, **k), counts, OFFSET)
    )
    options = [*SMALL, FACTOR, "--num_mips=3", "--encoding=raw", "--memory_target=600000"]
    if pipeline == "export":
        assert export.main([f"--src={source}", f"--dst=file://{tmp_path}/volume", *options]) == 0
        made = json.loads((tmp_path / "volume/report.json").read_text())
    else:
        made = run_downsample(source, *options)
    assert (counts == 1).all()
    assert made["stages"]["regions"]["voxels_read"] == counts.size
    assert made["stages"]["cells"]["done"] > 3


def test_encodings_and_levels_mip_by_mip(tmp_path: Path) -> None:
    x, y, z = np.ogrid[:67, :45, :31]
    array = np.asfortranarray(((x * 2 + y + z * 3) % 200).astype(np.uint8)[..., np.newaxis])
    url = f"file://{tmp_path}/layer"
    write_source(url, array, OFFSET, chunk_size=(16, 16, 16))
    options = ["--encoding=png;jpeg;raw", "--encoding_level=6;95", "--factor=2,2,1", "--memory_target=600000"]
    made = run_downsample(url, *options, "--num_mips=4")
    scales = info(url)["scales"]
    assert [scale["encoding"] for scale in scales] == ["raw", "png", "jpeg", "raw", "raw"]
    assert [scale.get("png_level") for scale in scales] == [None, 6, None, None, None]
    assert [scale.get("jpeg_quality") for scale in scales] == [None, None, 95, None, None]
    assert [scale["encoding"] for scale in made["scales"]] == ["png", "jpeg", "raw", "raw"]
    for mip, (_, expected) in enumerate(pyramid_in_one_piece(array, OFFSET, [(2, 2, 1)] * 4, "average"), 1):
        tolerance = 20 if mip == 2 else 0
        for read in (with_cloudvolume, with_tensorstore):
            difference = np.abs(read(url, mip).astype(int) - expected)
            assert np.percentile(difference, 90) <= tolerance, (mip, read.__name__)


def test_the_encoding_that_is_chosen_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One label in each half of the volume, and below it noise, of which raw takes the fewest bytes."""
    flat = np.ones((64, 64, 64, 1), np.uint32)
    flat[32:] = 2
    noise = np.random.default_rng(0).integers(0, 2**32, flat.shape, np.uint32)
    for name, array, few in [("flat", flat, True), ("noise", noise, False)]:
        url = f"file://{tmp_path}/{name}"
        write_source(url, array, layer_type="segmentation", encoding="raw")
        made = run_downsample(url, "--num_mips=1", "--compress=none")
        chosen = info(url)["scales"][1]["encoding"]
        assert (chosen == "raw") != few
        assert made["scales"][0]["encoding"] == chosen
        capsys.readouterr()
        assert (
            downsample.main([f"--layer={url}", *SMALL, "--num_mips=1", "--compress=none", "--plan", "--overwrite"]) == 0
        )
        assert f", {chosen} (bytes of samples: {chosen} " in rows_of(capsys.readouterr().out)["mip 1 chunks"]


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """A segmentation that somebody else has written, unsharded, with fields of their own in `info`."""
    url = f"file://{tmp_path}/layer"
    write_source(url, volume_of("uint32"), OFFSET, chunk_size=(16, 16, 16), layer_type="segmentation", mesh="meshes")
    Folder(url).write("meshes/info", b"{}")
    Folder(url).write("info", json.dumps({**info(url), "skeletons": "bones", "theirs": [1, 2]}).encode())
    return url


ADD = [FACTOR, "--num_mips=3", "--memory_target=600000"]


def test_mips_are_listed_when_they_are_complete(layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each stage, and when the last thing is checked, a reader finds the volume that stood there before."""
    seen, before, fine = [], info(layer), with_cloudvolume(layer)

    def look(function: Any, stage: str) -> Any:
        def looking(*args: Any) -> Any:
            result = function(*args)
            seen.append(stage)
            assert info(layer) == before
            return result

        return looking

    for place, stage in [
        ("transforms.export.render_region", "regions"),
        ("transforms.downsample.coarsen_cell", "cells"),
        ("transforms.shards.assemble_shard", "shards"),
        ("beam_volumes.volume_report.check_conservation", "proof"),
    ]:
        module, _, name = place.rpartition(".")
        monkeypatch.setattr(place, look(getattr(__import__(module, fromlist=[name]), name), stage))
    run_downsample(layer, *ADD)
    assert list(dict.fromkeys(seen)) == ["regions", "cells", "shards", "proof"]
    after = info(layer)
    assert after["scales"][:1] == before["scales"]
    assert {**after, "scales": []} == {**before, "scales": []}
    assert (tmp_path / "layer/meshes/info").read_bytes() == b"{}"
    assert_mips(layer, pyramid_in_one_piece(fine, OFFSET, FACTORS, "mode"))
    assert not (tmp_path / "layer/.beam_volumes").exists()


def test_provenance_is_gone_on_with(layer: str) -> None:
    theirs = {"description": "by hand", "owners": ["me"], "sources": ["elsewhere"], "processing": [{"method": "mine"}]}
    Folder(layer).write("provenance", json.dumps(theirs).encode())
    run_downsample(layer, *ADD, "--fill_missing")
    after = Folder(layer).read_json("provenance") or {}
    assert {**after, "processing": theirs["processing"]} == theirs
    assert after["processing"][0] == {"method": "mine"}
    [done] = [entry["method"] for entry in after["processing"][1:]]
    assert (done["task"], done["mip"], done["factor"]) == ("downsample", 0, [list(f) for f in FACTORS])
    assert (done["method"], done["sparse"], done["fill_missing"]) == ("auto", False, True)


def test_the_same_command_again_has_nothing_to_do(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_downsample(layer, *ADD)
    before = stamps(tmp_path)
    capsys.readouterr()
    run_downsample(layer, *ADD)
    out, err = capsys.readouterr()
    assert "nothing to do" in err
    assert "cells: done" in out
    assert stamps(tmp_path) == before


def test_other_mips_replace_those_that_stand_only_when_asked_to(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = with_cloudvolume(layer)
    run_downsample(layer, *ADD)
    before = tree(tmp_path)
    capsys.readouterr()
    other = ["--factor=2,2,2", "--num_mips=2", "--memory_target=600000"]
    for options in (other, [FACTOR, "--num_mips=4", "--memory_target=600000"], [*ADD, "--method=max"]):
        assert downsample.main([f"--layer={layer}", *SMALL, *options]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --layer: ")
        assert "--overwrite" in line
        assert tree(tmp_path) == before
    run_downsample(layer, *other, "--overwrite")
    assert_mips(layer, pyramid_in_one_piece(fine, OFFSET, [(2, 2, 2)] * 2, "mode"))
    folders = {path.name for path in (tmp_path / "layer").iterdir()}
    assert folders == {"info", "provenance", "meshes", "16_16_40", "32_32_80", "64_64_160"}


def test_going_on_from_the_coarsest(layer: str, tmp_path: Path) -> None:
    fine = with_cloudvolume(layer)
    run_downsample(layer, *ADD)
    before = {name: stamp for name, stamp in stamps(tmp_path / "layer").items() if name not in ("info", "provenance")}
    run_downsample(layer, "--mip=3", "--factor=2,2,1", "--num_mips=2")
    assert_mips(layer, pyramid_in_one_piece(fine, OFFSET, [*FACTORS, (2, 2, 1), (2, 2, 1)], "mode"))
    assert before.items() <= stamps(tmp_path / "layer").items()
    assert report(layer, 4)["stages"]["regions"]["voxels_read"] == with_cloudvolume(layer, 3).size
    methods = [entry["method"] for entry in (Folder(layer).read_json("provenance") or {})["processing"]]
    assert [(method["task"], method["mip"]) for method in methods[-2:]] == [("downsample", 0), ("downsample", 3)]


def test_mips_are_added_to_what_an_export_has_written(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/volume"
    options = ["--src=made://neurons?size=67,45,31&offset=-13,7,-5&chunk=16,16,16", f"--dst={url}"]
    assert export.main([*options, *SMALL, "--memory_target=4000000"]) == 0
    exported = (tmp_path / "volume/report.json").read_bytes()
    fine = with_cloudvolume(url)
    run_downsample(url, FACTOR, "--num_mips=3", "--memory_target=1200000")
    assert_mips(url, pyramid_in_one_piece(fine, OFFSET, FACTORS, "mode"))
    assert (tmp_path / "volume/report.json").read_bytes() == exported
    # What was exported is still whole, for the export as well.
    before = stamps(tmp_path)
    assert export.main([*options, *SMALL, "--memory_target=4000000"]) == 0
    assert stamps(tmp_path) == before


def test_an_unfinished_export_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/volume"
    command = ["--src=made://neurons?size=40,40,20&chunk=16,16,16", f"--dst={url}", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr("transforms.volume.finish_volume", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.main(command)
    before = tree(tmp_path)
    capsys.readouterr()
    assert downsample.main([f"--layer={url}", *SMALL]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--layer: expected a complete volume, but the export of {url} is not finished" in line
    assert tree(tmp_path) == before
    assert export.main(command) == 0
    run_downsample(url, "--num_mips=1")


def test_a_layer_in_a_bucket_gets_the_bytes_of_one_on_a_disk(bucket: str, tmp_path: Path) -> None:
    urls = [f"{bucket}/layer", f"file://{tmp_path}/layer"]
    for url in urls:
        src = "--src=made://neurons?size=67,45,31&offset=-13,7,-5&chunk=16,16,16"
        assert export.main([src, f"--dst={url}", *SMALL, "--memory_target=4000000"]) == 0
        made = run_downsample(url, FACTOR, "--num_mips=3", "--memory_target=1200000")
        assert made["stages"]["cells"]["done"] > 3
    names = [*written(tmp_path / "layer")]
    assert len(names) > 4
    for name in names:
        assert Folder(urls[0]).read(name) == Folder(urls[1]).read(name), name
    assert sorted(Folder(urls[0]).list()) == sorted(Folder(urls[1]).list())


def test_plan_says_what_would_be_done_and_writes_nothing(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    capsys.readouterr()
    assert downsample.main([f"--layer={layer}", *SMALL, *ADD, "--encoding=auto;raw", "--plan"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert tree(tmp_path) == before
    rows = rows_of(out)
    assert rows["destination"] == f"{layer} (new)"
    assert rows["mip 1"] == "32_32_40, 34 x 23 x 31 voxels"
    assert rows["mip 2"] == "96_64_80, 12 x 12 x 16 voxels"
    assert rows["mip 3"] == "192_128_160, 7 x 7 x 9 voxels"
    assert rows["mip 1 chunks"].startswith("24 of 16 x 16 x 8, compressed_segmentation (bytes of samples: compressed_")
    assert rows["mip 3 chunks"] == "2 of 16 x 16 x 8, raw, gzip"
    assert rows["mip 1 shards"].endswith("one file each")
    # Stored chunks begin at odd voxels: no coarse voxel is made of those of one block alone.
    assert rows["cells of level 1"] == "24 of 32 x 32 x 8 voxels of mip 0, for mips 1 to 1"
    assert rows["cells of level 2"].endswith("for mips 2 to 2")
    assert rows["cells of level 3"].endswith("for mips 3 to 3")
    assert "mip 0 chunks" not in rows
    assert int(rows["shards left to write"]) >= 3
    assert int(rows["bytes to write, estimated"].replace(",", "")) > 0
    assert int(rows["memory per worker, bytes"].replace(",", "")) > 600_000


def test_plan_of_an_export_with_mips(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    src = "--src=made://image?size=200,200,60"
    assert export.main([src, f"--dst=file://{tmp_path}/v", "--num_mips=2", "--encoding=jpeg;png", "--plan"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [rows[f"mip {mip}"].split(",")[0] for mip in range(3)] == ["16_16_40", "32_32_40", "64_64_40"]
    assert [rows[f"mip {mip} chunks"].split(", ")[1] for mip in range(3)] == ["jpeg", "png", "png"]
    assert list(tmp_path.iterdir()) == []
