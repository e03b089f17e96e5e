"""The `info` that the arguments of a layer ask for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

from beam_volumes.errors import OptionError
from beam_volumes.geometry import BBox3D, Box
from beam_volumes.layers import build_cv_layer, build_ts_layer
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, new_layer, random_voxels, stored_layer

Json = dict[str, Any]

BOUNDS = Box.of_shape((101, 64, 8), (-6, 2, 5))
BBOX = BBox3D.from_coords(BOUNDS.start, BOUNDS.stop, RESOLUTION)


def scale(resolution: list[int], size: list[int], offset: list[int], **others: Any) -> Json:
    return {
        "key": "_".join(map(str, resolution)),
        "resolution": resolution,
        "size": size,
        "voxel_offset": offset,
        "chunk_sizes": [[64, 64, 4]],
        "encoding": "raw",
        **others,
    }


FINE = scale([4, 4, 40], [101, 64, 8], [-6, 2, 5])
COARSE = scale([8, 8, 40], [51, 32, 8], [-3, 1, 5])


def info(*scales: Json, **others: Any) -> Json:
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "scales": list(scales),
        **others,
    }


def written(folder: Path, content: Json) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    return written(tmp_path / "reference", info(FINE, COARSE, mesh="mesh", skeletons="skeletons"))


def made(path: Path | str, **arguments: Any) -> Json:
    """Return the `info` that a layer writes."""
    build_cv_layer(str(path), **arguments).backend.write_info()
    found: Json = json.loads((Path(path) / "info").read_text())
    return found


def test_like_the_reference(tmp_path: Path, reference: str) -> None:
    assert made(tmp_path / "new", info_reference_path=reference) == info(FINE, COARSE)


def test_changed_after_the_reference(tmp_path: Path, reference: str) -> None:
    found = made(
        tmp_path / "new",
        info_reference_path=reference,
        info_type="segmentation",
        info_data_type="uint64",
        info_chunk_size=[32, 32, 8],
        info_chunk_size_map={"8_8_40": (128, 128, 1)},
        info_dataset_size_map={"4_4_40": [128, 64, 8]},
        info_voxel_offset=[0, 0, 0],
        info_voxel_offset_map={"8_8_40": [1, 2, 3]},
        info_encoding_map={"4_4_40": "compressed_segmentation"},
        info_field_overrides={"mesh": "elsewhere", "data_type": "uint32"},
    )
    fine = scale(
        [4, 4, 40],
        [128, 64, 8],
        [0, 0, 0],
        chunk_sizes=[[32, 32, 8]],
        encoding="compressed_segmentation",
        compressed_segmentation_block_size=[8, 8, 8],
    )
    coarse = scale([8, 8, 40], [51, 32, 8], [1, 2, 3], chunk_sizes=[[128, 128, 1]])
    assert found == info(fine, coarse, type="segmentation", data_type="uint64", mesh="elsewhere")


def test_an_encoding_that_cannot_hold_the_new_type_is_not_taken_over(tmp_path: Path) -> None:
    block = {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
    reference = written(tmp_path / "a", info({**FINE, **block}, type="segmentation", data_type="uint64"))
    assert made(tmp_path / "b", info_reference_path=reference, info_data_type="float32", info_type="image") == info(
        FINE, data_type="float32"
    )
    with pytest.raises(OptionError, match=r"expected one that holds image voxels of float32 .* came png"):
        build_cv_layer(
            str(tmp_path / "c"),
            info_reference_path=reference,
            info_data_type="float32",
            info_type="image",
            info_encoding="png",
        )


def test_more_scales(tmp_path: Path, reference: str) -> None:
    coarsest = scale([16, 16, 40], [26, 16, 8], [-2, 0, 5], chunk_sizes=[[32, 32, 4]])
    added = scale([2, 2, 40], [202, 128, 8], [-12, 4, 5])
    arguments: Json = {
        "info_reference_path": reference,
        "info_add_scales": [{"resolution": [16, 16, 40], "chunk_sizes": [[32, 32, 4]]}, [2, 2, 40]],
    }
    found = made(tmp_path / "merged", **arguments)
    size = coarsest["size"]
    size[1] = 17  # 66 * 4 nm are 16.5 voxels of 16 nm.
    assert found == info(added, FINE, COARSE, coarsest)
    assert made(tmp_path / "alone", **arguments, info_add_scales_mode="replace") == info(added, coarsest)
    kept = made(tmp_path / "kept", **arguments, info_only_retain_scales=[[2, 2, 40], (8, 8, 40)])
    assert kept == info(added, COARSE)
    after = made(
        tmp_path / "after",
        **arguments,
        info_add_scales_ref="8_8_40",
        info_add_scales_exclude_fields=["encoding"],
        info_encoding="raw",
        info_add_scales_mode="replace",
    )
    assert after["scales"][0]["size"] == [204, 128, 8]
    with pytest.raises(OptionError, match="info_add_scales_ref: expected one of 4_4_40, 8_8_40, came '5_5_40'"):
        made(tmp_path / "x", **arguments, info_add_scales_ref="5_5_40")
    with pytest.raises(OptionError, match=r"info_only_retain_scales: expected of 2_2_40, .* came 5_5_40"):
        made(tmp_path / "x", **arguments, info_only_retain_scales=[[5, 5, 40]])


def test_scales_of_the_later_spelling(tmp_path: Path, reference: str) -> None:
    found = made(
        tmp_path / "new",
        info_reference_path=reference,
        info_scales=[[8, 8, 40], [16, 16, 80]],
        info_data_type="float32",
        info_chunk_size=[64, 64, 4],
        info_encoding="raw",
        info_extra_scale_data={"note": "a"},
    )
    coarsest = scale([16, 16, 80], [26, 17, 5], [-2, 0, 2], note="a")
    assert found == info({**COARSE, "note": "a"}, coarsest, data_type="float32")
    assert found["scales"][1]["voxel_offset"] == [-2, 0, 2]
    inherited = made(
        tmp_path / "all", info_reference_path=reference, info_scales=[[4, 4, 40]], info_inherit_all_params=True
    )
    assert inherited == info(FINE)
    bounded = made(
        tmp_path / "bounded",
        info_reference_path=reference,
        info_scales=[[4, 4, 40]],
        info_inherit_all_params=True,
        info_bbox=BBox3D.from_coords((0, 0, 0), (8, 8, 1), (4, 4, 40)),
        info_num_channels=3,
    )
    assert bounded == info(scale([4, 4, 40], [8, 8, 1], [0, 0, 0]), num_channels=3)


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, reference: str) -> None:
    with pytest.raises(OptionError) as error:
        build_cv_layer(str(tmp_path / "new"), info_scales=[[4, 4, 40]], info_type="images", info_num_channels=0)
    for part in (
        "expected one of image, segmentation as info_type, came 'images'",
        "as info_data_type, came none",
        "expected 1 or more as info_num_channels, came 0",
        "scale 4_4_40: expected three numbers from 1 as info_dataset_size or info_bbox, came none",
        "scale 4_4_40: expected three numbers from 1 as info_chunk_size, came none",
        "scale 4_4_40: expected an encoding as info_encoding, came None",
    ):
        assert part in str(error.value)
    with pytest.raises(OptionError, match="expected at least one scale, came none: give info_reference_path"):
        build_cv_layer(str(tmp_path / "new"), info_data_type="uint8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_info_exists": "expand"}, "on_info_exists: expected one of expect_same, overwrite, extend, came 'expand'"),
        ({"info_add_scales_mode": "a"}, "info_add_scales_mode: expected one of merge, replace, came 'a'"),
        ({"on_info_exists": "extend", "info_overwrite": True}, "expected on_info_exists or info_overwrite, came both"),
        ({"info_bbox": BBOX}, "expected info_scales with info_bbox, came none"),
        (
            {"info_scales": [RESOLUTION], "info_chunk_size_map": {}},
            "expected info_scales, or the earlier info_chunk_size_map, came both",
        ),
        (
            {"info_reference_path": "/nowhere"},
            "info_reference_path: expected a volume, came /nowhere, which has no info",
        ),
        ({"info_add_scales": [[4, 4, 40]]}, "info_add_scales: expected a scale to make others after, came none"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, arguments: Json, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_cv_layer(str(tmp_path / "new"), **arguments)


WAYS: list[Json] = [
    {"on_info_exists": "expect_same"},
    {"on_info_exists": "extend"},
    {"on_info_exists": "overwrite"},
    {},
    {"info_overwrite": True},
    {"info_overwrite": False},
    {"info_overwrite": False, "info_keep_existing_scales": False},
]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_info_stays_whatever_is_done(tmp_path: Path, reference: str, way: Json) -> None:
    path = written(tmp_path / "a", info(COARSE, FINE, mesh="mesh"))
    layer = build_cv_layer(path, info_reference_path=reference, **way)
    assert layer.backend.unwritten is None


@pytest.mark.parametrize("way", WAYS)
def test_an_info_with_other_scales(tmp_path: Path, reference: str, way: Json) -> None:
    coarsest = scale([16, 16, 40], [1, 1, 1], [0, 0, 0])
    path = written(tmp_path / "a", info(coarsest, FINE, mesh="mesh"))

    def build() -> Json:
        return made(path, info_reference_path=reference, **way)

    if way.get("on_info_exists") == "expect_same":
        with pytest.raises(OptionError, match=r"came one that differs \(8_8_40: not there; 16_16_40: there\): ask for"):
            build()
    elif not way.get("info_keep_existing_scales", True):
        with pytest.raises(OptionError, match=r"came one that differs \(16_16_40: there\): ask for the same, or allow"):
            build()
    elif way.get("on_info_exists") == "overwrite":
        assert build() == info(FINE, COARSE)
    else:
        assert build() == info(FINE, COARSE, coarsest, mesh="mesh")


@pytest.mark.parametrize("way", WAYS)
def test_an_info_whose_scale_is_another(tmp_path: Path, reference: str, way: Json) -> None:
    path = written(tmp_path / "a", info({**FINE, "chunk_sizes": [[32, 32, 4]]}, COARSE))
    if way.get("on_info_exists") == "overwrite" or way.get("info_overwrite"):
        assert made(path, info_reference_path=reference, **way) == info(FINE, COARSE)
        return
    message = r"came one that differs \(4_4_40: chunk_sizes \[\[32, 32, 4\]\], not \[\[64, 64, 4\]\]\)"
    with pytest.raises(OptionError, match=message):
        build_cv_layer(path, info_reference_path=reference, **way)


def test_scales_that_stay_are_of_one_type(tmp_path: Path, reference: str) -> None:
    path = written(tmp_path / "a", info(FINE, scale([16, 16, 40], [1, 1, 1], [0, 0, 0]), data_type="int8"))
    with pytest.raises(OptionError, match="data_type: 'int8', not 'uint8'"):
        build_cv_layer(path, info_reference_path=reference)
    arguments: Json = {"info_reference_path": reference, "info_overwrite": True}
    with pytest.raises(OptionError, match="expected the scales 16_16_40, which stay, to be of the new volume's kind"):
        build_cv_layer(path, **arguments)
    assert made(path, **arguments, info_keep_existing_scales=False) == info(FINE, COARSE)


def test_added_to_what_stands_there(tmp_path: Path) -> None:
    voxels = random_voxels((1, 16, 16, 8), "uint8")
    stored_layer(tmp_path, voxels)
    layer = build_cv_layer(str(tmp_path), info_add_scales=[[8, 8, 40]])
    layer[(8, 8, 40), 0:8, 0:8, 0:8] = 5
    assert CloudVolume(f"file://{tmp_path}", progress=False).available_mips == range(2)
    np.testing.assert_array_equal(layer[RESOLUTION, 0:16, 0:16, 0:8].numpy(), voxels)
    assert (layer[(8, 8, 40), 0:8, 0:8, 0:8] == 5).all()


def test_shards_are_for_tensorstore(tmp_path: Path) -> None:
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": 0,
        "minishard_bits": 0,
        "shard_bits": 0,
    }
    reference = written(tmp_path / "a", info({**FINE, "sharding": sharding}))
    assert made(tmp_path / "b", info_reference_path=reference) == info(FINE)
    sharded = build_ts_layer(str(tmp_path / "c"), info_reference_path=reference)
    assert sharded.backend.unwritten == info({**FINE, "sharding": sharded.backend.volume.scale(0)["sharding"]})
    assert sharded.backend.volume.scale(0)["sharding"] == sharding


def test_cloudvolume_takes_the_info(tmp_path: Path) -> None:
    new_layer(tmp_path, BOUNDS, "uint64", info_type="segmentation").backend.write_info()
    volume = CloudVolume(f"file://{tmp_path}", progress=False)
    assert (volume.layer_type, volume.dtype, volume.num_channels) == ("segmentation", "uint64", 1)
    assert tuple(volume.bounds.minpt) == BOUNDS.start
    assert tuple(volume.bounds.maxpt) == BOUNDS.stop
