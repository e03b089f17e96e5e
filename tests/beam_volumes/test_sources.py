"""Sources: what volumes say of themselves, and their voxels, in each format."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorstore as ts
from cloudvolume import CloudVolume
from cloudvolume.frontends.precomputed import CloudVolumePrecomputed

from beam_volumes.errors import OptionError, SourceError
from beam_volumes.geometry import Box, Vec
from beam_volumes.graphene import GraphInfo
from beam_volumes.sources import Source, describe_source, graph_chunks_at, open_reader

Voxels = npt.NDArray[Any]

OFFSET: Vec = (-7, 100, 3)
SHAPE: Vec = (70, 45, 33)
CHUNK: Vec = (32, 32, 16)


def some_voxels(shape: tuple[int, ...], data_type: str) -> Voxels:
    """No voxel is 0, so that each chunk is stored."""
    return np.asfortranarray(np.random.default_rng(3).integers(1, 120, shape)).astype(data_type)


def write_precomputed(folder: Path, voxels: Voxels, **options: Any) -> str:
    url = f"file://{folder}"
    info = CloudVolume.create_new_info(
        num_channels=voxels.shape[3],
        layer_type=options.get("layer_type", "segmentation"),
        data_type=str(voxels.dtype),
        encoding=options.get("encoding", "raw"),
        resolution=(16, 16, 40),
        voxel_offset=options.get("offset", OFFSET),
        volume_size=voxels.shape[:3],
        chunk_size=CHUNK,
        max_mip=options.get("max_mip", 0),
    )
    volume = CloudVolume(url, info=info, progress=False, compress=options.get("compress", "gzip"))
    volume.commit_info()
    for mip in volume.available_mips:
        volume.mip = mip
        step = (2**mip, 2**mip, 1)
        volume[volume.bounds] = voxels[:: step[0], :: step[1]]
    return url


def assert_reads(url: str, voxels: Voxels, mip: int = 0, **facts: Any) -> Source:
    """All of it, and parts of it that are not aligned, are `voxels` (XYZC)."""
    source = describe_source(url, mip)
    assert (source.box.shape, source.num_channels, source.data_type) == (
        voxels.shape[:3],
        voxels.shape[3],
        str(voxels.dtype),
    )
    assert {name: getattr(source, name) for name in facts} == facts
    reader = open_reader(source, fill_missing=False)
    x, y, z = source.box.start
    part = Box((x + 3, y + 5, z + 7), (x + 36, y + 34, z + 18)).intersection(source.box)
    for box in (source.box, part, Box.of_shape((1, 1, 1), (x, y, z))):
        found, holes = reader.read(box)
        np.testing.assert_array_equal(found, voxels[box.slices((x, y, z))])
        assert found.dtype == voxels.dtype
        assert holes == []
    return source


@pytest.mark.parametrize(
    ("data_type", "channels", "encoding"),
    [
        ("uint64", 1, "compressed_segmentation"),
        ("uint64", 1, "raw"),
        ("uint32", 1, "crackle"),
        ("float32", 2, "raw"),
        ("uint8", 3, "raw"),
        ("uint8", 1, "png"),
    ],
)
def test_precomputed(data_type: str, channels: int, encoding: str, tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, channels), data_type)
    layer_type = "segmentation" if data_type.endswith(("64", "32")) and channels == 1 else "image"
    url = write_precomputed(tmp_path / "v", voxels, encoding=encoding, layer_type=layer_type)
    source = assert_reads(
        url,
        voxels,
        box=Box.of_shape(SHAPE, OFFSET),
        resolution_nm=(16.0, 16.0, 40.0),
        layer_type=layer_type,
        chunk=CHUNK,
        chunk_origin=OFFSET,
        voxels_url=url,
        graph=None,
        grain=(CHUNK, OFFSET),
    )
    assert source.info == json.loads((tmp_path / "v" / "info").read_text())


def test_precomputed_as_cloudvolume_names_it(tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint16")
    url = write_precomputed(tmp_path / "v", voxels)
    assert_reads(f"precomputed://{url}", voxels)


def test_a_chunk_stored_as_it_is_can_be_changed_in_memory(tmp_path: Path) -> None:
    voxels = some_voxels((*CHUNK, 1), "uint64")
    url = write_precomputed(tmp_path / "v", voxels, compress=None)
    source = describe_source(url, 0)
    found, _ = open_reader(source, fill_missing=False).read(source.box)
    assert found.flags.writeable


def test_coarser_mips(tmp_path: Path) -> None:
    voxels = some_voxels((64, 64, 16, 1), "uint64")
    url = write_precomputed(tmp_path / "v", voxels, offset=(64, 32, 5), max_mip=1)
    source = assert_reads(url, voxels[::2, ::2], mip=1, resolution_nm=(32.0, 32.0, 40.0))
    assert source.box == Box.of_shape((32, 32, 16), (32, 16, 5))


def test_a_lossy_grey_image_is_read(tmp_path: Path) -> None:
    grey = np.asfortranarray(np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None, None] * 2, (64, 64, 16, 1)))
    url = write_precomputed(tmp_path / "v", grey, encoding="jpeg", layer_type="image")
    source = describe_source(url, 0)
    found, _ = open_reader(source, fill_missing=False).read(source.box)
    assert np.abs(found.astype(int) - grey).max() < 8


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_images_of_several_channels_are_refused(encoding: str, tmp_path: Path) -> None:
    url = write_precomputed(tmp_path / "v", some_voxels((*SHAPE, 3), "uint8"), layer_type="image")
    info = json.loads((tmp_path / "v" / "info").read_text())
    info["scales"][0]["encoding"] = encoding
    (tmp_path / "v" / "info").write_text(json.dumps(info))
    with pytest.raises(OptionError, match=f"--src: .*with 3 channels in {encoding}, .*: transcode it to raw first"):
        describe_source(url, 0)


# Zarr and N5, written by tensorstore


def store(driver: str, folder: Path, voxels: Voxels, metadata: dict[str, Any]) -> None:
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": metadata}
    ts.open(spec, create=True).result()[...] = voxels


def multiscales(scales: int, version: str) -> dict[str, Any]:
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    datasets = [
        {
            "path": f"{i}",
            "coordinateTransformations": [{"type": "scale", "scale": [40, 16 * 2**i, 16 * 2**i]}],
        }
        for i in range(scales)
    ]
    return {"multiscales": [{"axes": axes, "datasets": datasets, "version": version, "name": "/"}]}


def write_zarr2(folder: Path, voxels: Voxels, byte_order: str = "<") -> str:
    """One OME-Zarr 0.4 pyramid of two scales."""
    for mip in range(2):
        part = voxels[:: 2**mip, :: 2**mip, :, 0].T
        metadata = {
            "shape": part.shape,
            "chunks": CHUNK[::-1],
            "dtype": f"{byte_order}{voxels.dtype.kind}{voxels.dtype.itemsize}",
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": "/",
            "fill_value": 0,
        }
        store("zarr", folder / str(mip), part, metadata)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps(multiscales(2, "0.4")))
    return f"zarr://file://{folder}"


def write_zarr3(folder: Path, voxels: Voxels, endian: str = "little") -> str:
    """One OME-Zarr 0.5 pyramid of two scales."""
    for mip in range(2):
        part = voxels[:: 2**mip, :: 2**mip, :, 0].T
        metadata = {
            "shape": part.shape,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": CHUNK[::-1]}},
            "data_type": str(voxels.dtype),
            "codecs": [{"name": "bytes", "configuration": {"endian": endian}}, {"name": "zstd"}],
        }
        store("zarr3", folder / str(mip), part, metadata)
    attributes = {"ome": {**multiscales(2, "0.5"), "version": "0.5"}}
    (folder / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}),
    )
    return f"zarr://file://{folder}"


def write_n5(folder: Path, voxels: Voxels) -> str:
    for mip in range(2):
        part = voxels[:: 2**mip, :: 2**mip, :, 0]
        metadata = {
            "dimensions": part.shape,
            "blockSize": CHUNK,
            "dataType": str(voxels.dtype),
            "compression": {"type": "gzip"},
        }
        store("n5", folder / f"s{mip}", part, metadata)
    factors = [[1, 1, 1], [2, 2, 1]]
    resolution = {"dimensions": [16, 16, 40], "unit": "nm"}
    attributes = {"scales": factors, "downsamplingFactors": factors, "pixelResolution": resolution}
    (folder / "attributes.json").write_text(json.dumps(attributes))
    return f"n5://file://{folder}"


WRITERS: list[Callable[[Path, Voxels], str]] = [write_zarr2, write_zarr3, write_n5]
CHUNK_FILES = dict(zip(WRITERS, ["0/1/1/1", "0/c/1/1/1", "s0/1/1/1"], strict=True))


@pytest.mark.parametrize("write", WRITERS)
def test_other_formats(write: Callable[[Path, Voxels], str], tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint8")
    url = write(tmp_path / "v", voxels)
    assert_reads(url, voxels, chunk=CHUNK, chunk_origin=(0, 0, 0), resolution_nm=(16.0, 16.0, 40.0))
    assert_reads(url, voxels[::2, ::2], mip=1, resolution_nm=(32.0, 32.0, 40.0))
    with pytest.raises(OptionError, match=r"--mip: expected one of \[0, 1\], the mips of .*, came 2"):
        describe_source(url, 2)


@pytest.mark.parametrize("write", [write_zarr2, write_zarr3])
def test_zarr_voxels_of_several_bytes(write: Callable[[Path, Voxels], str], tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint64")
    assert_reads(write(tmp_path / "v", voxels), voxels)


def test_byte_orders_that_cloudvolume_mistakes_are_refused(tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint16")
    for url in (write_zarr2(tmp_path / "2", voxels, ">"), write_zarr3(tmp_path / "3", voxels, "big")):
        with pytest.raises(OptionError, match=f"--src: expected little-endian voxels, came big-endian ones in {url}"):
            describe_source(url, 0)
    with pytest.raises(OptionError, match="--src: expected N5 voxels of one byte, came uint16 in n5://"):
        describe_source(write_n5(tmp_path / "n5", voxels), 0)


def test_coarser_zarr_that_is_stored_otherwise_is_refused(tmp_path: Path) -> None:
    url = write_zarr2(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8"))
    metadata = json.loads((tmp_path / "v/1/.zarray").read_text())
    (tmp_path / "v/1/.zarray").write_text(json.dumps({**metadata, "chunks": [8, 32, 32]}))
    describe_source(url, 0)
    with pytest.raises(OptionError, match=r"--mip: .*came 1, whose chunks differ, .*: export a finer mip"):
        describe_source(url, 1)


def test_axes_that_cloudvolume_would_drop_are_refused(tmp_path: Path) -> None:
    url = write_zarr2(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8"))
    metadata = {
        "shape": [2, 33, 45, 70],
        "chunks": [1, 16, 32, 32],
        "dtype": "|u1",
        "compressor": {"id": "zstd", "level": 1},
        "dimension_separator": "/",
    }
    store("zarr", tmp_path / "c" / "0", some_voxels((2, 33, 45, 70), "uint8"), metadata)
    attributes = multiscales(1, "0.4")
    scale = attributes["multiscales"][0]
    scale["axes"].insert(0, {"name": "c", "type": "channel"})
    scale["datasets"][0]["coordinateTransformations"][0]["scale"].insert(0, 1)
    (tmp_path / "c" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "c" / ".zattrs").write_text(json.dumps(attributes))
    describe_source(url, 0)
    with pytest.raises(OptionError, match=r"shape \[2, 33, 45, 70\], of which CloudVolume sees \[70, 45, 33\] in 1"):
        describe_source(f"zarr://file://{tmp_path}/c", 0)


# What is missing


@pytest.mark.parametrize("write", [write_precomputed, *WRITERS])
def test_a_missing_chunk(write: Callable[[Path, Voxels], str], tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint8")
    url = write(tmp_path / "v", voxels)
    source = describe_source(url, 0)
    hole = Box.of_shape(CHUNK, source.chunk_origin).translated(CHUNK).intersection(source.box)
    if write is write_precomputed:
        (file,) = (tmp_path / "v").rglob("_".join(f"{a}-{b}" for a, b in zip(*hole, strict=True)) + "*")
    else:
        file = tmp_path / "v" / CHUNK_FILES[write]
    os.unlink(file)
    with pytest.raises(SourceError, match=rf"mip 0: expected every chunk of {source.box}, but .*--fill_missing"):
        open_reader(source, fill_missing=False).read(source.box)
    reader = open_reader(source, fill_missing=True)
    expected = voxels.copy()
    expected[hole.slices(source.box.start)] = 0
    found, holes = reader.read(source.box)
    np.testing.assert_array_equal(found, expected)
    assert holes == [hole]
    x, y, z = hole.start
    part = Box((x - 5, y - 5, z - 5), (x + 3, y + 3, z + 3))
    found, holes = reader.read(part)
    np.testing.assert_array_equal(found, expected[part.slices(source.box.start)])
    assert holes == [Box((x, y, z), (x + 3, y + 3, z + 3))]
    beside = Box(source.box.start, (x, y, z))
    assert reader.read(beside)[1] == []


def test_a_damaged_chunk_is_no_hole(tmp_path: Path) -> None:
    url = write_precomputed(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8"))
    file = next((tmp_path / "v").rglob("*.gz"))
    file.write_bytes(b"not gzip")
    source = describe_source(url, 0)
    with pytest.raises(SourceError, match=f"{url}, mip 0, box .*: cannot read"):
        open_reader(source, fill_missing=True).read(source.box)


@pytest.mark.parametrize("prefix", ["", "precomputed://", "zarr://", "zarr2://", "zarr3://", "n5://"])
def test_no_volume(prefix: str, tmp_path: Path) -> None:
    with pytest.raises((OptionError, SourceError), match=f"--src: .*{prefix}file://{tmp_path}/none"):
        describe_source(f"{prefix}file://{tmp_path}/none", 0)


@pytest.mark.parametrize(
    "url",
    [
        "gopher://host/volume",
        "precomputed://gopher://host/volume",
        "mem://bucket/volume",
        "boss://collection/experiment/channel",
        "gs://gs://bucket/volume",
        "https://https://host/volume",
        "ftp://host/volume?token=s3cr3t",
    ],
)
def test_schemes_that_cloudvolume_would_take_for_paths_are_refused(url: str) -> None:
    shown = re.escape(url.partition("?")[0])
    with pytest.raises(
        OptionError, match=rf"--src: expected a local path or one of .*gs://, .* came {shown}"
    ) as caught:
        describe_source(url, 0)
    assert "s3cr3t" not in str(caught.value)


def test_a_format_behind_the_location_is_refused(tmp_path: Path) -> None:
    url = write_zarr2(tmp_path / "v", some_voxels((*SHAPE, 1), "uint16"), ">").removeprefix("zarr://")
    with pytest.raises(
        OptionError, match=r"--src: expected the format before .*, came file://.*: leave out \|zarr2: at"
    ):
        describe_source(f"{url}|zarr2:", 0)


SECRETS = [
    "http://user:s3cr3t@127.0.0.1:1/volume",
    "precomputed://http://user:s3cr3t@127.0.0.1:1/volume",
    "zarr://https://s3cr3t@127.0.0.1:1/volume",
    "https://user:s3/cr3t@127.0.0.1:1/volume",
    "https://127.0.0.1:1/volume?token=s3cr3t",
    "https://127.0.0.1:1/volume?user=me@here&token=s3cr3t",
    "HTTPS://127.0.0.1:1/volume#s3cr3t",
    "middleauth+https://127.0.0.1:1/volume?token=s3cr3t",
    "s3://https://key:s3cr3t@127.0.0.1:1/bucket/volume",
    "gs://key:s3cr3t@bucket/volume",
    " https://key:s3cr3t@127.0.0.1:1/volume",
]


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_in_a_location_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(
        OptionError, match=r"--src: .*: expected a plain address, came one with a query or a password"
    ) as e:
        describe_source(url, 0)
    table = "graphene://https://host/segmentation/table/a"
    with pytest.raises(OptionError, match=f"{table}: data_dir of its info: .*: expected a plain address") as f:
        describe_source(table, 0, graph_info(url, (32, 32, 16)))
    for secret in ("s3cr3t", "cr3t", "key", "user"):
        assert secret not in f"{e.value}{f.value}"


def test_locations_without_secrets_are_tried(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/a@b?c#d", f"{tmp_path}/a:b@c", f"zarr2://file://{tmp_path}/x@y"):
        with pytest.raises((OptionError, SourceError), match=r"--src: (cannot open|expected a volume)"):
            describe_source(url, 0)


def test_secrets_of_cloudvolume_s_errors_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("GET https://me:s3cr3t@host/x?token=s3cr3t: 403, Authorization: Bearer s3cr3t")

    source = describe_source(write_precomputed(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8")), 0)
    reader = open_reader(source, fill_missing=False)
    monkeypatch.setattr(CloudVolumePrecomputed, "download", fail)
    with pytest.raises(
        SourceError, match=r"cannot read: RuntimeError\('GET https://\.\.\.@host/x\?\.\.\. 403"
    ) as caught:
        reader.read(source.box)
    monkeypatch.setattr("beam_volumes.volume_reading.CloudVolume", fail)
    with pytest.raises(
        SourceError, match=r"--src: .* but file://.* cannot be opened: RuntimeError\('GET https://\.\.\.@"
    ) as opening:
        describe_source(source.url, 0)
    assert "s3cr3t" not in f"{caught.value}{opening.value}"


@pytest.mark.parametrize("mip", [-1, 1, 7])
def test_no_such_mip(mip: int, tmp_path: Path) -> None:
    url = write_precomputed(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8"))
    for src in (url, "made://neurons?size=9,9,9"):
        with pytest.raises(OptionError, match=rf"--mip: expected one of \[0\], the mips of .*, came {mip}"):
            describe_source(src, mip)


def test_an_empty_volume_is_refused(tmp_path: Path) -> None:
    url = write_precomputed(tmp_path / "v", some_voxels((*SHAPE, 1), "uint8"))
    info = json.loads((tmp_path / "v" / "info").read_text())
    info["scales"][0]["size"] = [70, 0, 33]
    (tmp_path / "v" / "info").write_text(json.dumps(info))
    with pytest.raises(OptionError, match=r"--src: expected a volume with voxels, came .* of shape \(70, 0, 33\)"):
        describe_source(url, 0)


def test_made_volumes() -> None:
    url = "made://neurons?size=30,20,10&offset=5,-6,7&chunk=16,8,4&dtype=uint32"
    source = describe_source(url, 0)
    assert source.box == Box.of_shape((30, 20, 10), (5, -6, 7))
    assert (source.chunk, source.chunk_origin, source.data_type) == ((16, 8, 4), (5, -6, 7), "uint32")
    whole, holes = open_reader(source, fill_missing=False).read(source.box)
    assert (whole.shape, holes) == ((30, 20, 10, 1), [])
    part = Box((8, 0, 8), (20, 9, 12))
    np.testing.assert_array_equal(
        open_reader(source, fill_missing=True).read(part)[0], whole[part.slices(source.box.start)]
    )


# Proofreading volumes


def graph_info(data_dir: str, chunk_size: Vec, **options: Any) -> GraphInfo:
    scales = [{"resolution": [16 * 2**i, 16 * 2**i, 40], "voxel_offset": [0, 0, 0]} for i in range(3)]
    scales[options.get("cv_mip", 0)]["voxel_offset"] = options.get("origin", [0, 0, 0])
    info = {
        "data_dir": data_dir,
        "chunks_start_at_voxel_offset": True,
        "scales": scales,
        "graph": {
            "chunk_size": list(chunk_size),
            "n_layers": 3,
            "cv_mip": options.get("cv_mip", 0),
            "spatial_bit_masks": {"1": 8, "2": 8, "3": 1},
        },
    }
    return GraphInfo.from_info(info, "graphene://a")


def at_mip(graph: GraphInfo, mip: int) -> Source:
    source = describe_source("made://neurons?size=9,9,9", 0)
    return replace(source, mip=mip, resolution_nm=(16.0 * 2**mip, 16.0 * 2**mip, 40.0), graph=graph)


@pytest.mark.parametrize(
    ("graph_mip", "mip", "origin", "expected"),
    [
        (0, 0, (3, 5, 7), ((64, 48, 32), (3, 5, 7))),
        (0, 1, (4, -6, 7), ((32, 24, 32), (2, -3, 7))),
        (0, 2, (3, -5, 7), ((16, 12, 32), (0, -2, 7))),
        (1, 0, (3, 5, 7), ((128, 96, 32), (6, 10, 7))),
        (1, 2, (3, 5, 7), ((32, 24, 32), (1, 2, 7))),
    ],
)
def test_graph_chunks_at_each_mip(graph_mip: int, mip: int, origin: Vec, expected: tuple[Vec, Vec]) -> None:
    source = at_mip(graph_info("file:///x", (64, 48, 32), cv_mip=graph_mip, origin=list(origin)), mip)
    assert graph_chunks_at(source) == expected
    assert source.grain == expected


def test_a_mip_at_which_graph_chunks_are_no_whole_voxels_is_refused() -> None:
    graph = graph_info("file:///x", (64, 50, 32))
    assert graph_chunks_at(at_mip(graph, 1))[0] == (32, 25, 32)
    with pytest.raises(OptionError, match=r"--mip: .*came 2, where it is \[16.0, 12.5, 32.0\]: export a finer mip"):
        graph_chunks_at(at_mip(graph, 2))
    with pytest.raises(ValueError, match="has no chunk graph"):
        graph_chunks_at(replace(at_mip(graph, 0), graph=None))


def test_a_watershed_holds_supervoxels(tmp_path: Path) -> None:
    voxels = some_voxels((*SHAPE, 1), "uint64")
    url = write_precomputed(tmp_path / "good", voxels)
    graph = graph_info(url, (32, 32, 16))
    source = describe_source("graphene://https://host/segmentation/table/a", 0, graph)
    assert (source.url, source.voxels_url) == ("graphene://https://host/segmentation/table/a", url)
    assert (source.info, source.grain) == (graph.info, ((32, 32, 16), (0, 0, 0)))
    bad = write_precomputed(tmp_path / "bad", voxels.astype("uint32"))
    with pytest.raises(SourceError, match="expected a watershed of supervoxels, uint64 in one channel, came uint32"):
        describe_source("graphene://https://host/segmentation/table/a", 0, graph_info(bad, (32, 32, 16)))
