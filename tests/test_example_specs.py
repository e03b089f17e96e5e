"""The specs of the guide, under examples/apply, do what they say."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import CloudVolume

from beam_volumes import builder
from beam_volumes.geometry import BBox3D, Box
from beam_volumes.layers import LayerDataset, build_cv_layer
from beam_volumes.testing.made import open_made
from pipelines import apply

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/apply"
SOURCE = "made://image?size=65536,32768,7064&resolution=16,16,40&chunk=1024,1024,1"
RESOLUTION = (16, 16, 40)
BOX = Box((29696, 16384, 2000), (30720, 17408, 2010))
ONE, TWO = [[1024, 1024, 1]], [[1024, 1024, 1], [256, 256, 1]]
TMP = "file://out/apply/tmp"
CHUNKS: dict[str, dict[str, Any]] = {
    "copy": {
        "processing_chunk_sizes": ONE,
        "processing_crop_pads": [[0, 0, 0]],
        "processing_blend_pads": [[0, 0, 0]],
        "skip_intermediaries": True,
    },
    "crop": {
        "processing_chunk_sizes": ONE,
        "processing_crop_pads": [[256, 256, 0]],
        "processing_blend_pads": [[0, 0, 0]],
        "skip_intermediaries": True,
    },
    "blend": {
        "processing_chunk_sizes": ONE,
        "processing_crop_pads": [[0, 0, 0]],
        "processing_blend_pads": [[256, 256, 0]],
        "processing_blend_modes": ["linear"],
        "level_intermediaries_dirs": [TMP],
    },
    "two_levels": {
        "processing_chunk_sizes": TWO,
        "processing_crop_pads": [[0, 0, 0]] * 2,
        "processing_blend_pads": [[0, 0, 0]] * 2,
        "level_intermediaries_dirs": [TMP] * 2,
    },
    "crop_and_blend": {
        "processing_chunk_sizes": TWO,
        "processing_crop_pads": [[96, 96, 0], [24, 24, 0]],
        "processing_blend_pads": [[32, 32, 0], [16, 16, 0]],
        "processing_blend_modes": ["linear", "quadratic"],
        "max_reduction_chunk_sizes": [1024, 1024, 1],
        "level_intermediaries_dirs": [TMP] * 2,
    },
    "remote": {"processing_chunk_sizes": TWO, "level_intermediaries_dirs": [TMP] * 2},
}
"""How each spec cuts its box: the guide's figures."""

DATASETS = ("dataset.json", "dataset.cue", "dataset_variables.cue", "dataset_placeholder.cue")


@functools.cache
def spec_of(name: str) -> dict[str, Any]:
    return builder.read_spec(str(FOLDER / name))


def made(url: str, box: Box) -> npt.NDArray[np.uint8]:
    """Return CXYZ voxels of a made volume."""
    return np.moveaxis(open_made(url).read(box), 3, 0)


def test_no_spec_is_left_out() -> None:
    # smooth.yaml runs with the docs that show it.
    assert {path.name for path in FOLDER.iterdir()} == {*DATASETS, *(f"{name}.cue" for name in CHUNKS), "smooth.yaml"}


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_are_those_of_the_guide(cue_works: None, name: str) -> None:
    assert spec_of(name) == spec_of("dataset.json")


def test_the_samples_of_the_guides_dataset() -> None:
    dataset = builder.build(spec_of("dataset.json"), allow_code=False)
    assert isinstance(dataset, LayerDataset)
    assert len(dataset) == 78400
    url = "made://image?size=16384,8192,7064&resolution=64,64,40"
    for number, start in ((0, (1000, 1000, 2000)), (78399, (1864, 1864, 2099))):
        sample = dataset[number]
        assert list(sample) == ["img", "img_norm"]
        box = Box.of_shape((128, 128, 1), start)
        np.testing.assert_array_equal(sample["img"].numpy(), made(url, box))
        np.testing.assert_array_equal(sample["img_norm"].numpy(), made(f"{url}&seed=1", box))


@pytest.mark.parametrize("name", CHUNKS)
def test_flows_are_those_of_the_guide(cue_works: None, name: str) -> None:
    spec = dict(spec_of(f"{name}.cue"))
    target = spec.pop("target")
    assert {key: target[key] for key in target.keys() - _SHARED.keys()} == CHUNKS[name]
    assert {key: target[key] for key in _SHARED} == {
        **_SHARED,
        "dst": {**_SHARED["dst"], "path": f"file://out/apply/{name}"},
    }
    assert builder.build(target["bbox"]) == BBox3D.from_coords(BOX.start, BOX.stop, RESOLUTION)
    expected = _REMOTE if name == "remote" else {"@type": "mazepa.execute"}
    assert spec == expected


_SHARED: dict[str, Any] = {
    "@type": "build_subchunkable_apply_flow",
    "bbox": {
        "@type": "BBox3D.from_coords",
        "start_coord": list(BOX.start),
        "end_coord": list(BOX.stop),
        "resolution": list(RESOLUTION),
    },
    "dst_resolution": list(RESOLUTION),
    "fn": {"@type": "lambda", "lambda_str": "lambda src: src"},
    "op_kwargs": {"src": {"@type": "build_cv_layer", "path": SOURCE}},
    "dst": {"@type": "build_cv_layer", "info_reference_path": SOURCE, "on_info_exists": "overwrite"},
}
_REMOTE = {
    "@type": "mazepa.execute_on_gcp_with_sqs",
    "worker_image": "us.gcr.io/{PROJECT}/zetta_utils:{tag}",
    "worker_cluster_name": "{CLUSTER_NAME}",
    "worker_cluster_region": "us-east1",
    "worker_cluster_project": "zetta-research",
    "worker_resources": {"memory": "18560Mi"},
    "worker_replicas": 10,
    "local_test": True,
}


def test_the_layers_of_a_flow(cue_works: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = spec_of("copy.cue")["target"]
    src, dst = builder.build(target["op_kwargs"]["src"]), builder.build(target["dst"])
    assert dst.backend.get_bounds(RESOLUTION) == src.backend.get_bounds(RESOLUTION)
    assert tuple(dst.backend.get_chunk_size(RESOLUTION)) == (1024, 1024, 1)
    idx = dst.frontend.convert((RESOLUTION, *BOX.slices()))
    first = idx.with_end((30720, 17408, 2001))
    values = builder.build(target["fn"])(src=src[first])
    dst[first] = values
    np.testing.assert_array_equal(dst[first].numpy(), made(SOURCE, first.box))
    assert dst.name == f"file://{tmp_path}/out/apply/copy"


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[np.uint8]]:
    """A volume with a chunk more on each side of the box, of two slices, and its CXYZ voxels: made ones repeat."""
    folder = tmp_path_factory.mktemp("noise")
    around = Box((BOX.start[0] - 1024, BOX.start[1] - 1024, 2000), (BOX.stop[0] + 1024, BOX.stop[1] + 1024, 2002))
    bbox = BBox3D.from_coords(around.start, around.stop, RESOLUTION)
    layer = build_cv_layer(
        path=str(folder),
        cv_kwargs={"compress": False},
        info_scales=[RESOLUTION],
        info_bbox=bbox,
        info_data_type="uint8",
        info_chunk_size=(1024, 1024, 1),
        info_encoding="raw",
    )
    values = np.random.default_rng(0).integers(0, 256, (1, *around.shape), np.uint8)
    layer[RESOLUTION, bbox] = values
    return folder, values


@pytest.mark.parametrize("name", CHUNKS)
def test_a_run_copies_its_box(
    cue_works: None, noise: tuple[Path, npt.NDArray[np.uint8]], tmp_path: Path, name: str
) -> None:
    folder, values = noise
    changes = {
        "target.bbox.end_coord.2": 2002,
        "target.op_kwargs.src.path": folder,
        "target.dst.path": tmp_path / "dst",
        "target.dst.info_reference_path": folder,
    }
    for level, _ in enumerate(CHUNKS[name].get("level_intermediaries_dirs", ())):
        changes[f"target.level_intermediaries_dirs.{level}"] = tmp_path / "tmp"
    spec = FOLDER / f"{name}.cue"
    assert apply.main([f"--spec={spec}", *(f"--set={place}={value}" for place, value in changes.items())]) == 0
    found = voxels_of(tmp_path / "dst", Box(BOX.start, (*BOX.stop[:2], 2002)))
    np.testing.assert_array_equal(found, values[:, 1024:-1024, 1024:-1024])


def test_a_spec_runs_as_it_stands(cue_works: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert apply.main([f"--spec={FOLDER / 'copy.cue'}"]) == 0
    np.testing.assert_array_equal(voxels_of(tmp_path / "out/apply/copy", BOX), made(SOURCE, BOX))


def voxels_of(folder: Path, box: Box) -> npt.NDArray[np.uint8]:
    """Return CXYZ voxels as CloudVolume reads them."""
    volume = CloudVolume(f"file://{folder}", mip=list(RESOLUTION), progress=False)
    return np.moveaxis(np.asarray(volume[box.slices()]), 3, 0)
