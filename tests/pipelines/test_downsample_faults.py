"""Downsampling in which something breaks, or that cannot work: one line, and never mips with holes."""

import contextlib
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

import transforms.downsample
import transforms.export
import transforms.shards
from beam_volumes.downsample import coarsen_cell
from beam_volumes.export import render_region
from beam_volumes.parcels import Parcel
from beam_volumes.precomputed.info import Json
from beam_volumes.rendering import Counts, Rendered
from beam_volumes.shard_assembly import WrittenShard
from beam_volumes.storage import Folder
from pipelines import export
from pipelines.downsample import main
from tests.pipelines.conftest import (
    MIPS,
    SECONDS,
    check_holes_are_accepted_each_time,
    children,
    copy_of,
    only_error,
    pyramid_in_one_piece,
    started,
    tree,
    wait_until,
    with_cloudvolume,
    write_source,
    written,
)

pytestmark = pytest.mark.usefixtures("temporary_files_of_the_killed")

FACTORS = [(2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
HOLE = "16_16_40/0-64_0-32_520-524"
"""A stored chunk in the third region, whose slices are 512 to 767."""


def downsample(layer: Path, *options: str) -> int:
    return main([f"--layer=file://{layer}", "--processes=1", *options])


def info(layer: Path) -> Json:
    return Folder(f"file://{layer}").read_json("info") or {}


@pytest.fixture(scope="module")
def undisturbed(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    layer = copy_of(fine, tmp_path_factory.mktemp("undisturbed") / "layer")
    assert downsample(layer, *MIPS) == 0
    return written(layer)


def goes_on(layer: Path, undisturbed: dict[str, bytes]) -> None:
    """Nothing was made visible; the same command, with nothing lost, makes the mips."""
    assert len(info(layer)["scales"]) == 1
    assert not (layer / "32_32_40/report.json").exists()
    assert downsample(layer, *MIPS) == 0
    assert written(layer) == undisturbed


class Once:
    """Calls `function`, and changes what comes of the third call."""

    def __init__(self, function: Callable[..., Any], change: Callable[[Any], Any]) -> None:
        self._function, self._change, self._calls = function, change, 0

    def __call__(self, *args: Any) -> Any:
        self._calls += 1
        result = self._function(*args)
        return self._change(result) if self._calls == 3 else result


def lose_parcel_of_tiles(result: Rendered) -> Rendered:
    cell = min(result.tiles)
    return result._replace(tiles={key: parcel for key, parcel in result.tiles.items() if key != cell})


def changed_tiles(result: Rendered, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Rendered:
    cell = min(result.tiles)
    parcel = result.tiles[cell]
    return result._replace(tiles={**result.tiles, cell: parcel._replace(table=change(parcel.pieces).tobytes())})


def lose_tile(result: Rendered) -> Rendered:
    return changed_tiles(result, lambda pieces: pieces[1:])


def double_tile(result: Rendered) -> Rendered:
    return changed_tiles(result, lambda pieces: np.concatenate([pieces, pieces[:1]]))


def move_tile(result: Rendered) -> Rendered:
    """A tile stands in the place of another one, which comes twice that way."""

    def move(pieces: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.concatenate([pieces[1:2], pieces[1:]])

    return changed_tiles(result, move)


def lose_piece(result: Rendered) -> Rendered:
    shard = min(result.parcels)
    parcel: Parcel = result.parcels[shard]
    return result._replace(parcels={**result.parcels, shard: parcel._replace(table=parcel.pieces[1:].tobytes())})


def lose_counts(result: Rendered) -> Rendered:
    return result._replace(counts=Counts())


def lose_all(result: Rendered) -> Rendered:
    return Rendered({}, {}, Counts())


TILES = (
    r"expected \d+ tiles of mip {} that make up [-\d,]+, each once, came \d+; missing: {} \(\d+ in all\): .*in cell "
)
CHANGED = {
    "a region's tiles are lost": ("regions", lose_parcel_of_tiles, TILES.format(2, r"[-\d,]+")),
    "a region's tile is lost": ("regions", lose_tile, TILES.format(1, r"[-\d,]+")),
    "a region's tile comes twice": ("regions", double_tile, TILES.format(1, "none")),
    "a region's tile comes in the place of another": ("regions", move_tile, TILES.format(1, r"[-\d,]+")),
    "all of a region is lost": ("regions", lose_all, TILES.format(3, r"[-\d,]+")),
    "a region's counts are lost": ("regions", lose_counts, r"regions: expected 6, came 5; tiles: expected \d+, came"),
    "a cell's tiles are lost": ("cells", lose_parcel_of_tiles, TILES.format(2, r"[-\d,]+")),
    "a cell's tile is lost": ("cells", lose_tile, TILES.format(2, r"[-\d,]+")),
    "a cell's tile comes twice": ("cells", double_tile, TILES.format(2, "none")),
    "a cell's piece is lost": ("cells", lose_piece, r"64_64_80, shard 0: expected every voxel of 24 chunks once"),
    "all of a cell is lost": ("cells", lose_all, TILES.format(2, r"[-\d,]+")),
    "a cell's counts are lost": ("cells", lose_counts, r"cells: expected 31, came 30; tiles: expected \d+, came"),
}


@pytest.mark.parametrize(("stage", "change", "message"), CHANGED.values(), ids=CHANGED)
def test_what_a_region_or_a_cell_made_is_lost(
    stage: str,
    change: Callable[[Rendered], Rendered],
    message: str,
    layer: Path,
    undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if stage == "regions":
            patch.setattr(transforms.export, "render_region", Once(render_region, change))
        else:
            patch.setattr(transforms.downsample, "coarsen_cell", Once(coarsen_cell, change))
        assert downsample(layer, *MIPS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line
    assert "the same command again" in line
    goes_on(layer, undisturbed)


class Disturbed(transforms.downsample.CoarsenCells):
    """Loses a cell, or takes it twice."""

    how = ""

    def expand(self, tiles: beam.PCollection[Any]) -> Any:
        if self.how == "never comes":
            return super().expand(tiles | "Lose" >> beam.Filter(_is_another))
        parts = super().expand(tiles)
        doubled = (parts.parcels, parts.parcels) | "Double" >> beam.Flatten()
        return parts._replace(parcels=doubled)


def _is_another(element: tuple[tuple[int, int], Any]) -> bool:
    return tuple(element[0]) != (1, 5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        # What is above it lacks its tile.
        ("never comes", TILES.format(2, r"[-\d,]+")),
        ("comes twice", r"expected every voxel of \d+ chunks once, came \d+ pieces"),
    ],
)
def test_a_cell_is_lost_or_comes_twice(
    how: str, message: str, layer: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disturbed, "how", how)
        patch.setattr("transforms.volume.CoarsenCells", Disturbed)
        assert downsample(layer, *MIPS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(message, line), line
    goes_on(layer, undisturbed)


def test_the_topmost_cell_is_lost(
    layer: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for its tiles, and its shard has no other piece: only the counts tell."""

    class Topless(transforms.downsample.CoarsenCells):
        def expand(self, tiles: beam.PCollection[Any]) -> Any:
            return super().expand(tiles | "Lose the top" >> beam.Filter(_is_not_on_top))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.volume.CoarsenCells", Topless)
        assert downsample(layer, *MIPS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(r"cells: expected 31, came 30; tiles: expected \d+, came \d+; .*shards: expected 6, came 5", line)
    goes_on(layer, undisturbed)


def _is_not_on_top(element: tuple[tuple[int, int], Any]) -> bool:
    return element[0][0] != 3


class WithoutOne(transforms.shards.AssembleShards):
    """Never sees a shard of mip 3."""

    def expand(self, parcels: beam.PCollection[Any]) -> beam.PCollection[WrittenShard]:
        return super().expand(parcels | "Lose" >> beam.Filter(_is_of_another_mip))


def _is_of_another_mip(element: tuple[tuple[int, int], Any]) -> bool:
    return element[0][0] != 3


def test_a_shard_is_lost(layer: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.volume.AssembleShards", WithoutOne)
        assert downsample(layer, *MIPS) == 1
    assert re.search(r"shards: expected 6, came 5", only_error(capsys.readouterr().err))
    goes_on(layer, undisturbed)


@pytest.mark.parametrize("kind", ["region", "cell-1", "cell-2"])
def test_a_pack_is_damaged_behind_the_run(
    kind: str, layer: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte of the first tile or piece is another: it is not taken, and made anew by the next run."""
    level = {"region": 1, "cell-1": 2, "cell-2": 3}[kind]
    damaged: list[Path] = []

    def damage_first(plan: Any, key: Any, parcels: Any) -> Rendered:
        if key.level == level and not damaged:
            pack = parcels[0].pack
            [folder] = (layer / ".beam_volumes/downsample/scratch").iterdir()
            damaged.append(folder / pack)
            assert pack.startswith(kind)
            data = bytearray(damaged[0].read_bytes())
            data[int(parcels[0].pieces["offset"][0]) + 3] ^= 1
            damaged[0].write_bytes(data)
        return coarsen_cell(plan, key, parcels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms.downsample, "coarsen_cell", damage_first)
        assert downsample(layer, *MIPS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(rf"{damaged[0].name}: expected \d+ bytes at \d+ with crc32c 0x\w+, came others: give the", line)
    assert re.search(rf"\(in cell [-\d,]+ of level {level}\)", line)
    assert not damaged[0].exists()
    goes_on(layer, undisturbed)


def test_a_worker_that_is_killed_while_mips_are_made(layer: Path, undisturbed: dict[str, bytes]) -> None:
    with started("downsample", f"--layer=file://{layer}", *MIPS, "--processes=2") as process:
        scratch = layer / ".beam_volumes/downsample/scratch"
        wait_until(lambda: any(scratch.rglob("cell-1-*.pack")), process)
        for child in children(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, err
    assert "expected a result, but its worker process was killed by SIGKILL" in only_error(err)
    goes_on(layer, undisturbed)


def test_a_full_disk(layer: Path, undisturbed: dict[str, bytes]) -> None:
    def limit_files() -> None:
        # Python gets EFBIG, as ENOSPC from a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    # A library that is compiled to a file larger than the limit would be left in part.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    options = [f"--layer=file://{layer}", *MIPS, "--processes=2"]
    with started("downsample", *options, preexec_fn=limit_files, env=environment) as process:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, (out, err)
    line = only_error(err)
    assert re.search(rf"file://{layer}/\S*\.pack: expected to write a file, came File too large \(EFBIG\)", line)
    goes_on(layer, undisturbed)


@pytest.mark.parametrize("pipeline", ["downsample", "export"])
def test_a_missing_chunk_is_named_or_listed(
    pipeline: str, layer: Path, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = with_cloudvolume(f"file://{layer}")
    (layer / HOLE).unlink()
    made = layer if pipeline == "downsample" else dst

    def run(*options: str) -> int:
        if pipeline == "downsample":
            return downsample(layer, *MIPS, *options)
        return export.main([f"--src=file://{layer}", f"--dst=file://{dst}", "--processes=1", *MIPS, *options])

    assert run() == 1
    line = only_error(capsys.readouterr().err)
    assert f"file://{layer}" in line
    assert "520" in line
    assert "region 0,0,512,64,32,768" in line
    assert "--fill_missing" in line
    assert run("--fill_missing") == 0
    assert re.search(r"(?m)^  holes: +1$", capsys.readouterr().out)
    report = Folder(f"file://{made}").read_json("32_32_40/report.json" if made == layer else "report.json") or {}
    assert report["holes"] == ["0,0,520,64,32,524"]
    assert expected[:, :, 520:524].any()
    expected[:, :, 520:524] = 0
    for mip, (_, voxels) in enumerate(pyramid_in_one_piece(expected, (0, 0, 0), FACTORS, "mode"), 1):
        np.testing.assert_array_equal(with_cloudvolume(f"file://{made}", mip), voxels)
    check_holes_are_accepted_each_time(run, capsys)


def test_a_chunk_that_cannot_be_read_is_named(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (layer / HOLE).read_bytes()
    (layer / HOLE).unlink()
    (layer / HOLE).write_bytes(data[:1000])
    assert downsample(layer, *MIPS, "--fill_missing") == 1
    line = only_error(capsys.readouterr().err)
    assert f"file://{layer}" in line
    assert "region 0,0,512,64,32,768" in line
    assert len(info(layer)["scales"]) == 1


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small layers to which nothing is ever added."""
    folder = tmp_path_factory.mktemp("layers")
    labels = np.random.default_rng(0).integers(0, 9, (40, 40, 20, 1)).astype(np.uint32)
    write_source(f"file://{folder}/seg", labels, layer_type="segmentation", chunk_size=(16, 16, 16))
    write_source(f"file://{folder}/image", labels.astype(np.uint8), chunk_size=(16, 16, 16))
    write_source(f"file://{folder}/floats", labels.astype(np.float32), chunk_size=(16, 16, 16))
    write_source(f"file://{folder}/small", labels[:16, :16, :16], layer_type="segmentation", chunk_size=(16, 16, 16))
    for name, content in {"broken": "{ no JSON", "nothing": "{}", "scales": '{"scales": []}'}.items():
        (folder / name).mkdir()
        (folder / name / "info").write_text(content)
    write_source(f"file://{folder}/told", labels, layer_type="segmentation", chunk_size=(16, 16, 16))
    (folder / "told/provenance").write_text('{"processing": "yes"}')
    before = tree(folder)
    yield folder
    assert tree(folder) == before


SEG, IMAGE = "--layer=file://{layers}/seg", "--layer=file://{layers}/image"
OPTIONS = {
    "no layer": ([], r"expected also --layer=URL"),
    "no volume": (["--layer=file://{layers}/none"], r"--layer: expected a .*file://\S+/none"),
    "no JSON": (["--layer=file://{layers}/broken"], r"/broken"),
    "no scales": (["--layer=file://{layers}/nothing"], r"--layer: .*file://\S+/nothing"),
    "not one scale": (["--layer=file://{layers}/scales"], r"/scales"),
    "made": (["--layer=made://neurons?size=64,64,64"], r"--layer: .*made://neurons"),
    "https": (["--layer=https://127.0.0.1:1/seg"], r"--layer: expected .*https.*read"),
    "graphene": (["--layer=graphene://https://127.0.0.1:1/segmentation/table/t"], r"--layer: .*graphene://"),
    "zarr": (["--layer=zarr://file://{layers}/seg"], r"--layer: .*zarr://"),
    "unknown scheme": (["--layer=gopher://host/seg"], r"--layer: .*gopher://host/seg"),
    "a provenance that is none": (["--layer=file://{layers}/told"], r"--layer: .*file://\S+/told.*provenance"),
    "another pipeline's option": ([SEG, "--dst=file://{layers}/x"], r"--dst: neither .* has this option"),
    "misspelt option": ([SEG, "--num_mip=2"], r"--num_mip: neither .* did you mean --num_mips "),
    "mip that is not there": ([SEG, "--mip=1"], r"--mip: expected .*came 1"),
    "mip below 0": ([SEG, "--mip=-1"], r"--mip: expected a whole number, 0 or more, came '-1'"),
    "no mips": ([SEG, "--num_mips=0"], r"--num_mips: expected .*came 0.*there is nothing to make"),
    "nothing to make": (
        ["--layer=file://{layers}/small"],
        r"--num_mips: .*came auto .*\(16, 16, 16\).*nothing to make",
    ),
    "some mips": ([SEG, "--num_mips=some"], r"--num_mips: expected .*came 'some'"),
    "more mips than can be": (
        [SEG, "--num_mips=9"],
        r"--num_mips: expected at most 6, after which a volume of 1 x 1 x 20 voxels is left that \(2, 2, 1\) makes no "
        r"smaller, came 9",
    ),
    "factor of 1": ([SEG, "--factor=1,1,1"], r"--factor: expected numbers from 1, one of each three 2 or more"),
    "factor of 1 later": ([SEG, "--factor=2,2,2;1,1,1"], r"--factor: expected numbers from 1, one of each three 2"),
    "factor of 0": ([SEG, "--factor=2,2,0"], r"--factor: expected .*1 or more, came '2,2,0'"),
    "factor of two axes": ([SEG, "--factor=2,2"], r"--factor: expected .*such as .*came '2,2'"),
    "factor of fractions": ([SEG, "--factor=2,2,1.5"], r"--factor: expected .*came '2,2,1.5'"),
    "more factors than mips": (
        [SEG, "--factor=2,2,1;2,2,2;2,2,1", "--num_mips=2"],
        r"--factor: expected at most as many factors as --num_mips=2, came 3 ",
    ),
    "factors twice": ([SEG, "--factor=2,2,2", "--isotropic"], r"--factor: expected none with --isotropic.*came 2,2,2"),
    "averages of too many": (
        [IMAGE, "--factor=2048,2048,1024", "--num_mips=1"],
        r"--num_mips: expected averages of at most 2,147,483,648 voxels of mip 0",
    ),
    "unknown method": ([SEG, "--method=median"], r"--method: expected one of auto, mode, average.*came 'median'"),
    "sparse averages": ([SEG, "--sparse", "--method=average"], r"--sparse: expected --method=mode or auto.*average"),
    "sparse images": ([IMAGE, "--sparse"], r"--sparse: expected --method=mode, came average"),
    "bounds outside": ([SEG, "--bounds=64,0,0,96,16,16"], r"--bounds: .*which has 0,0,0,40,40,20, came 64,0,0,96"),
    "bounds backwards": ([SEG, "--bounds=8,8,8,0,0,0"], r"--bounds: expected .* each start below its stop"),
    "memory below a stored chunk": (
        [SEG, "--memory_target=50000", "--chunk_size=4,4,4"],
        r"--memory_target: expected at least 65,536 bytes.*came 50,000: raise it",
    ),
    "memory below a cell": (
        [SEG, "--memory_target=70000", "--chunk_size=16,16,16"],
        r"--memory_target: expected at least [\d,]+ bytes, 4 times what a chunk of mip 2 is made of, came 70,000",
    ),
    "memory below a chunk": (
        [SEG, "--memory_target=70000", "--chunk_size=32,32,20"],
        r"--chunk_size: expected chunks of at most 70,000 bytes of voxels.*came 81,920: make them smaller",
    ),
    "chunk of nothing": ([SEG, "--chunk_size=0,1,1"], r"--chunk_size: expected three .*, 1 or more, came '0,1,1'"),
    "unknown encoding": ([SEG, "--encoding=webp"], r"--encoding: expected one or several of auto, raw,.*'webp'"),
    "jpeg of ids": ([SEG, "--encoding=jpeg"], r"--encoding: expected one that holds .*uint32.*came jpeg"),
    "jpeg later": ([SEG, "--encoding=raw;jpeg"], r"--encoding: expected one that holds .*uint32.*came jpeg"),
    "labels of an image": ([IMAGE, "--encoding=compressed_segmentation"], r"--encoding: .*came compressed_segm"),
    "png of fractions": (["--layer=file://{layers}/floats", "--encoding=png"], r"--encoding: .*float32.*came png"),
    "more encodings than mips": (
        [SEG, "--encoding=raw;raw;raw", "--num_mips=2"],
        r"--encoding: expected at most one for each mip that is written \(2\), came 3 ",
    ),
    "level of raw": ([IMAGE, "--encoding=raw", "--encoding_level=9"], r"--encoding_level: .*raw.*9"),
    "level of what is chosen": ([IMAGE, "--encoding_level=9"], r"--encoding_level: expected none with --encoding=auto"),
    "level too high": ([IMAGE, "--encoding=jpeg", "--encoding_level=101"], r"--encoding_level: .*100.*came 101"),
    "more levels than mips": (
        [IMAGE, "--encoding=png", "--encoding_level=1;2;3", "--num_mips=2"],
        r"--encoding_level: expected at most one for each mip that is written \(2\), came 3",
    ),
    "brotli in shards": ([SEG, "--compress=br"], r"--compress: expected gzip or none for shards, came br"),
    "scratch that is none": ([SEG, "--scratch=ftp://host/x"], r"--scratch: .*ftp://host/x.*expected a local path"),
    "out of reach": (
        [SEG, "--runner=PortableRunner", "--job_endpoint=localhost:1", "--max_num_workers=2"],
        r"--layer: expected a place that every worker of --runner reaches.* came file:///",
    ),
    "scratch out of reach": (
        [
            *("--layer=gs://bucket/seg", "--scratch={layers}/scratch"),
            *("--runner=PortableRunner", "--job_endpoint=localhost:1", "--max_num_workers=2"),
        ],
        r"--scratch: expected a place that every worker .* came /",
    ),
}


@pytest.mark.parametrize(("args", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_work(
    args: list[str], message: str, layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(layers)
    status = main([arg.replace("{layers}", str(layers)) for arg in args])
    out, err = capsys.readouterr()
    assert (status, out, len(err.splitlines())) == (2, "", 1), (status, out, err)
    assert re.search(message, only_error(err)), err
    assert tree(layers) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--factor=2,2,2;2,2,1", "--num_mips=1"],
            r"--factor: expected at most as many factors as --num_mips=1, came 2",
        ),
        (["--num_mips=7"], r"--num_mips: expected at most 6, after which .* came 7"),
        (["--num_mips=2", "--sparse", "--method=max"], r"--sparse: expected --method=mode or auto with it, came max"),
        (["--num_mips=1", "--encoding=raw;raw;raw"], r"--encoding: expected at most one .* \(2\), came 3"),
        (["--num_mips=1", "--encoding=raw;jpeg"], r"--encoding: expected one that holds .*uint32.*came jpeg"),
    ],
)
def test_exports_with_mips_that_cannot_work(
    args: list[str], message: str, layers: Path, dst: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"--src=file://{layers}/seg", f"--dst=file://{dst}", "--chunk_size=16,16,16", *args]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert re.search(message, only_error(err)), err
    assert not dst.exists()


def test_a_scale_of_the_same_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key of the mip to make is that of a finer one; its folder is that of mip 0."""
    url = f"file://{tmp_path}/layer"
    write_source(url, np.ones((40, 40, 20, 1), np.uint32), layer_type="segmentation", chunk_size=(16, 16, 16))
    content = Folder(url).read_json("info") or {}
    content["scales"][0]["key"] = "32_32_40"
    Folder(url).write("info", str(content).replace("'", '"').encode())
    (tmp_path / "layer/16_16_40").rename(tmp_path / "layer/32_32_40")
    before = tree(tmp_path)
    for more in ([], ["--overwrite"]):
        assert main([f"--layer={url}", *more]) == 2
        assert re.search(
            r"--factor: expected scales that .* lacks, came another 32_32_40", only_error(capsys.readouterr().err)
        )
        assert tree(tmp_path) == before
