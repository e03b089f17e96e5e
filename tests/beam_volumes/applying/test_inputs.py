"""The layers among a function's arguments: found, read, planned for, and cached."""

from collections import Counter, namedtuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.applying.inputs import (
    blank_kwargs,
    cache_bytes,
    check_reads,
    layers_in,
    planned_inputs,
    planned_reads,
    read_kwargs,
    reading_bytes,
    single_layers,
    versions,
    with_caches,
)
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec, VolumetricIndex
from beam_volumes.layers import (
    VolumetricIndexTranslator,
    VolumetricLayer,
    build_cv_layer,
    build_layer_set,
    build_ts_layer,
)
from beam_volumes.layers.chunked_backend import ChunkedBackend
from beam_volumes.storage import Folder
from beam_volumes.subchunk_memory import Input
from beam_volumes.subchunks import VoxelKind
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, random_voxels, stored_layer, window

BUDGET = settings(derandomize=True, deadline=None, max_examples=20)
SHAPE = (40, 36, 20)
CHUNKS = 3 * 3 * 3
CHUNK_BYTES = 16 * 16 * 8
Pair = namedtuple("Pair", ["left", "right"])


def index(box: Box, resolution: tuple[float, ...] = RESOLUTION) -> VolumetricIndex:
    return VolumetricIndex.from_coords(box.start, box.stop, resolution)


def volume(path: Path, seed: int = 0, data_type: str = "uint8", **others: Any) -> VolumetricLayer:
    return stored_layer(path, random_voxels((1, *SHAPE), data_type, seed), **others)


def cache_of(layer: VolumetricLayer) -> Any:
    assert isinstance(layer.backend, ChunkedBackend)
    return layer.backend.cache


def interpolated(mode: str) -> dict[str, Any]:
    return {"data_resolution": RESOLUTION, "interpolation_mode": mode}


def test_layers_are_found_by_their_path(tmp_path: Path) -> None:
    a, b, c = (volume(tmp_path / name) for name in "abc")
    pair = build_layer_set({"left": b, "right": build_layer_set({"in": c})})
    kwargs = {"src": a, "images": [a, (b, 5)], "masks": {"left": c}, "pair": pair, "n": 3, "weights": [1, 2]}
    assert layers_in(kwargs) == {"src": a, "images.0": a, "images.1.0": b, "masks.left": c, "pair": pair}
    assert single_layers(kwargs) == {
        "src": a,
        "images.0": a,
        "images.1.0": b,
        "masks.left": c,
        "pair.left": b,
        "pair.right.in": c,
    }
    assert layers_in({}) == {}


def test_layers_are_read_where_they_stand(tmp_path: Path) -> None:
    voxels = [random_voxels((1, *SHAPE), "uint8", seed) for seed in range(3)]
    a, b, c = (stored_layer(tmp_path / str(seed), each) for seed, each in enumerate(voxels))
    weights, plain = [1, [2]], {"k": (3, 4)}
    kwargs = {
        "src": a,
        "images": [a, Pair(b, 5)],
        "tuple": (b,),
        "pair": build_layer_set({"left": b, "right": build_layer_set({"in": c})}, read_procs=[_with_one]),
        "weights": weights,
        "plain": plain,
    }
    box = Box((-3, 5, 2), (20, 12, 30))
    read = read_kwargs(kwargs, index(box))
    expected = [torch.from_numpy(window(each, (0, 0, 0), box)) for each in voxels]
    assert list(read) == list(kwargs)
    assert torch.equal(read["src"], expected[0])
    assert isinstance(read["images"], list)
    assert torch.equal(read["images"][0], expected[0])
    assert isinstance(read["images"][1], Pair)
    assert torch.equal(read["images"][1].left, expected[1])
    assert read["images"][1].right == 5
    assert isinstance(read["tuple"], tuple)
    assert torch.equal(read["tuple"][0], expected[1])
    assert read["pair"]["one"] == 1
    assert torch.equal(read["pair"]["left"], expected[1])
    assert torch.equal(read["pair"]["right"]["in"], expected[2])
    assert read["weights"] is weights
    assert read["plain"] is plain
    assert kwargs["src"] is a


def _with_one(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "one": 1}


def test_a_layer_rounds_where_it_is_to(tmp_path: Path) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    stored_layer(tmp_path, voxels)
    half = VolumetricIndexTranslator((0.5, 0, 0), RESOLUTION)
    layer = build_cv_layer(str(tmp_path), allow_slice_rounding=True, index_procs=[half])
    box = Box((1, 0, 0), (3, 2, 2))
    assert read_kwargs({"src": layer}, index(box))["src"].shape == (1, 2, 2, 2)
    with pytest.raises(OptionError, match=r"op_kwargs\.src: .*whole"):
        check_reads({"src": build_cv_layer(str(tmp_path), index_procs=[half])}, index(box))


def test_blanks_go_through_processors(tmp_path: Path) -> None:
    volume(tmp_path / "a", data_type="uint16")
    layer = build_cv_layer(
        str(tmp_path / "a"),
        data_resolution=RESOLUTION,
        interpolation_mode="img",
        read_procs=[lambda data: data.float() + 2],
    )
    for name in (tmp_path / "a").glob("4_4_40/*"):
        name.write_bytes(b"not looked at")
    idx = index(Box((0, 0, 0), (10, 9, 20)), (8, 8, 40))
    read = blank_kwargs({"src": [layer], "set": build_layer_set({"in": layer}), "n": 1}, idx)
    assert torch.equal(read["src"][0], torch.full((1, 10, 9, 20), 2.0))
    assert torch.equal(read["set"]["in"], read["src"][0])
    assert read["n"] == 1


def test_all_layers_that_lack_a_resolution_are_told(tmp_path: Path) -> None:
    good = volume(tmp_path / "a", data_resolution=RESOLUTION, interpolation_mode="img")
    bad = volume(tmp_path / "b")
    idx = index(Box((0, 0, 0), (4, 4, 4)), (8, 8, 40))
    kwargs = {"good": good, "bad": [bad], "set": build_layer_set({"in": bad, "fine": good})}
    with pytest.raises(OptionError) as caught:
        check_reads(kwargs, idx)
    message = str(caught.value)
    assert "op_kwargs.bad.0: " in message
    assert "op_kwargs.set.in: " in message
    assert message.count("expected one of its resolutions") == 2
    check_reads({"good": good}, idx)
    assert [read.path for read in planned_reads(kwargs, idx)] == ["good", "set.fine"]


def test_what_is_read_is_planned(tmp_path: Path) -> None:
    move = VolumetricIndexTranslator((2, 0, -1), RESOLUTION)
    layer = volume(
        tmp_path, data_type="uint16", data_resolution=RESOLUTION, interpolation_mode="img", index_procs=[move]
    )
    idx = index(Box((0, 0, 0), (8, 6, 4)), (8, 8, 40))
    members = build_layer_set({"in": layer}, index_procs=[move])
    alone, member = planned_reads({"src": layer, "set": members}, idx)
    assert alone.kind == VoxelKind(1, "int32")
    assert (tuple(alone.taken.resolution), alone.taken.box) == ((8, 8, 40), Box((1, 0, -1), (9, 6, 3)))
    assert (tuple(alone.stored.resolution), alone.stored.box) == (RESOLUTION, Box((2, 0, -1), (18, 12, 3)))
    assert (member.path, member.stored.box) == ("set.in", Box((4, 0, -2), (20, 12, 2)))
    # A chunk of 4 x 6 x 4 voxels of the destination at (16, 8, 40) nm.
    assert planned_inputs({"src": layer}, idx, (4, 6, 4)) == [
        Input(VoxelKind(1, "int32"), (0, 0, 0), (Fraction(2), Fraction(1), Fraction(1)))
    ]


def test_a_set_that_changes_index_and_data_leaves_what_is_taken(tmp_path: Path) -> None:
    class Halved:
        def process_index(self, idx: VolumetricIndex, mode: str) -> VolumetricIndex:
            return VolumetricIndex.from_coords(idx.start * 2, idx.stop * 2, RESOLUTION)

        def process_data(self, data: Any, mode: str) -> Any:
            return {name: values[:, ::2, ::2, ::2] for name, values in data.items()}

    members = build_layer_set({"in": volume(tmp_path)}, read_procs=[Halved()])
    idx = index(Box((1, 2, 3), (4, 5, 6)), (8, 8, 80))
    (read,) = planned_reads({"set": members}, idx)
    assert (read.taken, read.stored.box) == (idx, Box((2, 4, 6), (8, 10, 12)))
    assert read_kwargs({"set": members}, idx)["set"]["in"].shape[1:] == tuple(read.taken.shape)


@pytest.mark.parametrize(
    ("data_type", "others", "box", "resolution", "expected"),
    [
        # One box of whole chunks: nothing but the tensor.
        ("uint8", {}, Box((0, 0, 0), (16, 16, 8)), RESOLUTION, 0),
        # Parts of eight chunks are fetched whole.
        ("uint8", {}, Box((8, 8, 4), (24, 24, 12)), RESOLUTION, 8 * CHUNK_BYTES - CHUNK_BYTES),
        # uint16 becomes int32.
        ("uint16", {}, Box((0, 0, 0), (16, 16, 8)), RESOLUTION, 2 * CHUNK_BYTES),
        # What is in the bounds (8 x 16 x 8) is read before it is put among zeros.
        ("uint8", {}, Box((32, 0, 0), (48, 16, 8)), RESOLUTION, CHUNK_BYTES // 2),
        # What is averaged is held besides the average.
        ("uint8", interpolated("img"), Box((0, 0, 0), (8, 8, 8)), (8, 8, 40), CHUNK_BYTES),
        # The tensor, a quarter as large as the result, and floats of it and, three times, of the result.
        ("uint8", interpolated("img"), Box((0, 0, 0), (32, 32, 8)), (2, 2, 40), (1 + 4 + 3 * 16 - 4) * CHUNK_BYTES),
        ("float32", interpolated("img"), Box((0, 0, 0), (32, 32, 8)), (2, 2, 40), 4 * CHUNK_BYTES),
        # The tensor, a float of it, and one of the result.
        ("uint8", interpolated("mask"), Box((0, 0, 0), (8, 8, 8)), (8, 8, 40), 5 * CHUNK_BYTES + 3 * CHUNK_BYTES // 4),
        # Twice as large along x, and along y then.
        ("int32", interpolated("segmentation"), Box((0, 0, 0), (32, 32, 8)), (2, 2, 40), 4 * (1 + 2) * CHUNK_BYTES),
    ],
)
def test_what_reading_holds(
    tmp_path: Path, data_type: str, others: Any, box: Box, resolution: Any, expected: int
) -> None:
    layer = volume(tmp_path, data_type=data_type, **others)
    assert reading_bytes({"a": layer, "b": layer}, index(box, resolution)) == expected
    assert reading_bytes({"n": 1}, index(box)) == 0


def test_versions_tell_another_volume_but_not_another_scale(tmp_path: Path) -> None:
    idx = index(Box((0, 0, 0), (4, 4, 4)))
    kwargs = {"src": volume(tmp_path / "a"), "set": build_layer_set({"in": volume(tmp_path / "b")}), "n": 3}
    before = versions(kwargs, idx)
    assert [(each["argument"], each["volume"]) for each in before] == [
        ("src", f"file://{tmp_path}/a"),
        ("set.in", f"file://{tmp_path}/b"),
    ]
    assert before[0]["version"] != before[1]["version"]
    extended = build_cv_layer(
        str(tmp_path / "a"),
        info_extend_if_exists=True,
        info_add_scales=[[8, 8, 40]],
        info_add_scales_ref="4_4_40",
        info_add_scales_mode="merge",
    )
    assert len(extended.backend.volume.info["scales"]) == 2
    assert versions({"src": extended}, idx) == before[:1]
    unknown = index(Box((0, 0, 0), (4, 4, 4)), (1, 1, 1))
    assert versions({"src": extended}, unknown)[0]["version"] != versions({"src": kwargs["src"]}, unknown)[0]["version"]
    wider = volume(tmp_path / "c", data_type="uint16")
    assert versions({"src": wider}, idx)[0]["version"] not in [each["version"] for each in before]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file that is there was read."""
    counts: Counter[str] = Counter()
    read = Folder.read

    def counted(self: Folder, name: str) -> bytes | None:
        data = read(self, name)
        counts.update([f"{self.url}/{name}"] if data is not None else [])
        return data

    monkeypatch.setattr(Folder, "read", counted)
    return counts


def overlapping(shape: Vec) -> list[VolumetricIndex]:
    starts = [(x, y, z) for x in range(0, 40, 10) for y in range(0, 36, 12) for z in range(0, 20, 5)]
    return [index(Box.of_shape(shape, start)).padded((3, 3, 2)) for start in starts]


def test_what_overlaps_is_read_once(tmp_path: Path, opened: Counter[str]) -> None:
    voxels = random_voxels((1, *SHAPE), "uint8")
    stored_layer(tmp_path / "a", voxels)
    stored_layer(tmp_path / "b", voxels)
    moved = VolumetricIndexTranslator((0, 0, 1), RESOLUTION)
    kwargs = {
        "src": build_cv_layer(str(tmp_path / "a")),
        "images": [build_cv_layer(str(tmp_path / "a"), index_procs=[moved])],
        "set": build_layer_set({"in": build_cv_layer(str(tmp_path / "b"))}),
    }
    whole = index(Box.of_shape(SHAPE)).padded((3, 3, 2))
    needed = cache_bytes(kwargs, whole)
    assert needed == 2 * CHUNKS * CHUNK_BYTES
    with_caches(kwargs, whole, needed)
    opened.clear()
    for idx in overlapping((10, 12, 5)):
        read = read_kwargs(kwargs, idx)
        expected = torch.from_numpy(window(voxels, (0, 0, 0), idx.box))
        assert torch.equal(read["src"], expected)
        assert torch.equal(read["set"]["in"], expected)
        below = torch.from_numpy(window(voxels, (0, 0, 0), idx.translated((0, 0, 1)).box))
        assert torch.equal(read["images"][0], below)
    assert len(opened) == 2 * CHUNKS
    assert set(opened.values()) == {1}


def test_without_caches_they_are_read_often(tmp_path: Path, opened: Counter[str]) -> None:
    layer = volume(tmp_path)
    opened.clear()
    for idx in overlapping((10, 12, 5)):
        read_kwargs({"src": layer}, idx)
    assert min(opened.values()) > 1


def test_bytes_are_shared_by_need(tmp_path: Path) -> None:
    wide = volume(tmp_path / "a", data_type="float32")
    narrow = volume(tmp_path / "b")
    own = volume(tmp_path / "c", cache_bytes_limit=5)
    other = volume(tmp_path / "d", data_resolution=RESOLUTION, interpolation_mode="img")
    kwargs = {"wide": wide, "narrow": narrow, "own": own, "other": other}
    idx = index(Box((0, 0, 0), (17, 16, 8)))
    assert cache_bytes(kwargs, idx) == 2 * (4 + 1 + 1) * CHUNK_BYTES
    with_caches(kwargs, idx, 6 * CHUNK_BYTES)
    limits = {name: cache_of(layer).limit for name, layer in kwargs.items()}
    assert limits == {"wide": 4 * CHUNK_BYTES, "narrow": CHUNK_BYTES, "own": 5, "other": CHUNK_BYTES}
    # Those that have one now are left alone.
    assert cache_bytes(kwargs, idx) == 0
    with_caches(kwargs, idx, 10**9)
    assert cache_of(wide).limit == 4 * CHUNK_BYTES


def test_no_more_is_given_than_needed(tmp_path: Path) -> None:
    layer = volume(tmp_path)
    with_caches({"src": layer}, index(Box((0, 0, 0), (17, 1, 1))), 10**9)
    assert cache_of(layer).limit == 2 * CHUNK_BYTES
    beyond = volume(tmp_path / "far")
    with_caches({"src": beyond}, index(Box((100, 0, 0), (117, 1, 1))), 10**9)
    assert cache_of(beyond).limit == 0


def test_tensorstore_keeps_chunks_too(tmp_path: Path) -> None:
    volume(tmp_path, cv_kwargs={"compress": False})
    kwargs = {"src": build_ts_layer(str(tmp_path))}
    idx = index(Box((0, 0, 0), (17, 1, 1)))
    with_caches(kwargs, idx, 10**9)
    assert kwargs["src"].backend.cache_bytes_limit == 2 * (CHUNK_BYTES + 1024)  # type: ignore[attr-defined]
    first = read_kwargs(kwargs, idx)["src"]
    for name in (tmp_path / "4_4_40").iterdir():
        name.unlink()
    assert torch.equal(read_kwargs(kwargs, idx)["src"], first)
    assert first.any()


def test_cache_bytes_hold_every_chunk_that_is_met(tmp_path: Path) -> None:
    layer = volume(tmp_path)
    corners = st.tuples(st.integers(-20, 60), st.integers(-20, 60), st.integers(-20, 60))
    sizes = st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))

    @BUDGET
    @given(corners, sizes, st.integers(-30, 30))
    def check(start: Vec, size: Vec, move: int) -> None:
        moved = layer.with_changes(index_procs=[VolumetricIndexTranslator((move, 0, 0), RESOLUTION)])
        idx = index(Box.of_shape(size, start))
        grid = layer.backend.volume.grid(0)
        met = set(grid.positions_meeting(idx.box))
        other = set(grid.positions_meeting(idx.translated((move, 0, 0)).box))
        assert cache_bytes({"a": layer}, idx) == len(met) * CHUNK_BYTES
        both = cache_bytes({"a": layer, "b": moved}, idx)
        assert len(met | other) * CHUNK_BYTES <= both <= (len(met) + len(other)) * CHUNK_BYTES

    check()


def test_arrays_are_left_as_they_are(tmp_path: Path) -> None:
    array = np.arange(3)
    assert read_kwargs({"a": array, "t": (array, 1)}, index(Box((0, 0, 0), (1, 1, 1))))["a"] is array
