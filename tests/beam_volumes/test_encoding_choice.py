"""What `--encoding=auto` takes, and what it reads to know."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import Array, compress, compression_of, encode_chunk
from beam_volumes.downsampling import Downsampler
from beam_volumes.encoding_choice import (
    AUTO,
    Choice,
    SampledVolume,
    candidates_for,
    choose_encodings,
    sample_boxes,
    smallest_encoding,
)
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec

CHUNK = (64, 64, 16)
SEGMENTATION = ["raw", "compressed_segmentation", "compresso"]


def segmentation(shape: Vec, seed: int = 0) -> Array:
    """Blobs of labels: the nearest of some points."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    points = random.integers(0, shape, (30, 3))
    nearest = np.argmin([((grid - point) ** 2).sum(axis=-1) for point in points], axis=0)
    ids = random.integers(1, 2**40, len(points)).astype(np.uint64)
    return np.asfortranarray(ids[nearest][..., np.newaxis])


class Memory:
    """A volume in memory that notes what is read of it."""

    def __init__(self, array: Array, offset: Vec) -> None:
        x, y, z = array.shape[:3]
        self.array = array
        self.box = Box.of_shape((x, y, z), offset)
        self.boxes: list[Box] = []

    def read(self, box: Box) -> Array:
        assert self.box.contains(box)
        assert box.voxels
        self.boxes.append(box)
        return np.asarray(self.array[box.slices(self.box.start)])

    @property
    def kind(self) -> SampledVolume:
        return SampledVolume(self.box, "segmentation", self.array.dtype.name, self.array.shape[3])


class Virtual:
    """A volume of any size whose voxels are one value, but for the places that hold noise."""

    def __init__(self, box: Box, noise: Box) -> None:
        self.box, self.noise = box, noise
        self.boxes: list[Box] = []

    def read(self, box: Box) -> Array:
        assert self.box.contains(box)
        self.boxes.append(box)
        array = np.zeros((*box.shape, 1), np.uint32, order="F")
        part = box.intersection(self.noise)
        if part.voxels:
            random = np.random.default_rng(0)
            array[part.slices(box.start)] = random.integers(0, 2**32, (*part.shape, 1), np.uint32)
        return array


def choose(memory: Memory, factors: list[Vec], wanted: list[str], compression: str = "gzip") -> list[Choice]:
    downsampler = Downsampler("mode", memory.array.dtype.name)
    return choose_encodings(memory.read, memory.kind, CHUNK, factors, downsampler, compression, wanted)


def size_of(array: Array, encoding: str, compression: str) -> int:
    return len(compress(encode_chunk(array, encoding), compression_of(encoding, compression)))


@pytest.mark.parametrize("compression", ["gzip", "br", "none"])
def test_the_smallest_is_taken(compression: str) -> None:
    samples = [segmentation((40, 40, 8), seed) for seed in (1, 2)]
    choice = smallest_encoding(samples, SEGMENTATION, compression)
    expected = {e: sum(size_of(sample, e, compression) for sample in samples) for e in SEGMENTATION}
    assert choice.bytes_by_encoding == expected
    assert choice.encoding == min(expected, key=lambda encoding: expected[encoding])
    assert choice.encoding != "raw"


def test_noise_is_stored_raw() -> None:
    noise = np.random.default_rng(0).integers(0, 2**64, (32, 32, 16, 1), np.uint64)
    choice = smallest_encoding([noise], SEGMENTATION, "gzip")
    assert choice.encoding == "raw"
    assert min(choice.bytes_by_encoding.values()) == choice.bytes_by_encoding["raw"] >= noise.nbytes


def test_of_equal_encodings_the_first_is_taken() -> None:
    sample = segmentation((8, 8, 8))
    assert smallest_encoding([sample], ["compresso", "compresso"], "none").encoding == "compresso"
    empty: list[Array] = []
    assert smallest_encoding(empty, ["compresso", "raw"], "none") == Choice("compresso", {"compresso": 0, "raw": 0})


def test_an_encoding_that_cannot_hold_a_sample_is_left_out() -> None:
    wide = np.ones((8, 8, 8, 1), np.uint16)
    choice = smallest_encoding([wide], ["png", "raw"], "gzip")
    assert choice == Choice("raw", {"raw": size_of(wide, "raw", "gzip")})
    with pytest.raises(OptionError, match="--encoding: expected one of png to hold the voxels, came none that can"):
        smallest_encoding([wide], ["png"], "gzip")


@pytest.mark.parametrize(
    ("kind", "chunk", "expected"),
    [
        (("segmentation", "uint64", 1), CHUNK, ["raw", "compressed_segmentation", "compresso"]),
        (("segmentation", "uint16", 1), CHUNK, ["raw", "compresso"]),
        (("segmentation", "uint64", 1), (256, 256, 120), ["raw", "compressed_segmentation", "compresso"]),
        (("segmentation", "uint64", 1), (256, 256, 128), ["raw", "compresso"]),
        (("image", "uint8", 1), CHUNK, ["raw", "compresso", "png"]),
        (("image", "uint8", 1), (64, 2000, 1000), ["raw", "compresso"]),
        (("image", "uint8", 3), CHUNK, ["raw"]),
        (("image", "float32", 1), CHUNK, ["raw"]),
    ],
)
def test_candidates_are_lossless_and_hold_the_voxels(
    kind: tuple[str, str, int], chunk: Vec, expected: list[str]
) -> None:
    assert candidates_for(SampledVolume(Box.of_shape((1, 1, 1)), *kind), chunk) == expected


def test_each_mip_is_measured_by_itself() -> None:
    memory = Memory(segmentation((128, 96, 24)), (-40, 8, 3))
    factors = [(1, 1, 1), (2, 2, 1), (2, 2, 2)]
    choices = choose(memory, factors, [AUTO] * 3)
    downsampler = Downsampler("mode", "uint64")
    mips = downsampler.mips(downsampler.tile(memory.array, memory.box.start), factors)
    for choice, (_, voxels) in zip(choices, mips, strict=True):
        middle = [
            slice((n - min(n, c)) // 2, (n - min(n, c)) // 2 + min(n, c))
            for n, c in zip(voxels.shape[:3], CHUNK, strict=True)
        ]
        part = voxels[tuple(middle)]
        assert choice.bytes_by_encoding == {e: size_of(part, e, "gzip") for e in SEGMENTATION}
        assert choice.bytes_by_encoding[choice.encoding] == min(choice.bytes_by_encoding.values())
    assert memory.boxes == [memory.box]
    assert choices == choose(memory, factors, [AUTO] * 3)


def test_named_encodings_are_kept_and_read_nothing() -> None:
    memory = Memory(segmentation((32, 32, 16)), (0, 0, 0))
    assert choose(memory, [(2, 2, 1)] * 2, ["crackle", "raw"]) == [Choice("crackle"), Choice("raw")]
    assert memory.boxes == []

    mixed = choose(memory, [(1, 1, 1), (2, 2, 1)], ["crackle", AUTO])
    assert mixed[0] == Choice("crackle")
    assert sorted(mixed[1].bytes_by_encoding) == sorted(SEGMENTATION)


def test_nothing_is_read_where_there_is_no_choice() -> None:
    memory = Memory(np.ones((32, 32, 16, 1), np.float32), (0, 0, 0))
    assert choose(memory, [(2, 2, 1)] * 2, [AUTO, "raw"]) == [Choice("raw"), Choice("raw")]
    assert memory.boxes == []


def test_mips_that_are_too_small_take_what_the_one_before_took() -> None:
    memory = Memory(segmentation((64, 64, 16)), (0, 0, 0))
    choices = choose(memory, [(2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1)], [AUTO, AUTO, "png", AUTO])
    assert [bool(choice.bytes_by_encoding) for choice in choices] == [True, True, False, False]
    assert choices[2:] == [Choice("png"), Choice(choices[1].encoding)]


def test_the_first_mip_is_measured_however_small() -> None:
    memory = Memory(segmentation((8, 8, 8)), (0, 0, 0))
    choices = choose(memory, [(2, 2, 1), (2, 2, 1)], [AUTO, AUTO])
    assert [bool(choice.bytes_by_encoding) for choice in choices] == [True, False]


def test_samples_are_taken_where_there_is_content() -> None:
    # Background, but for one part that some of the places lie in.
    volume = Virtual(Box((-1000, 77, 5), (9000, 10_077, 2005)), Box((3500, 0, 0), (9000, 12_000, 2005)))
    kind = SampledVolume(volume.box, "segmentation", "uint32", 1)
    (choice,) = choose_encodings(volume.read, kind, CHUNK, [(2, 2, 1)], Downsampler("mode", "uint32"), "gzip", [AUTO])
    samples = [box for box in volume.boxes if box.shape == (128, 128, 16)]
    probes = [box for box in volume.boxes if box.shape == (64, 64, 8)]
    assert len(samples) == 4
    assert len(set(samples)) == 4
    assert 4 < len(probes) <= 16
    assert all(volume.noise.contains(box) for box in samples)
    assert choice.bytes_by_encoding["raw"] >= 4 * math.prod(CHUNK) * 4


def test_a_volume_of_background_is_sampled_too() -> None:
    volume = Virtual(Box.of_shape((10_000, 10_000, 1000)), Box.of_shape((0, 0, 0)))
    kind = SampledVolume(volume.box, "segmentation", "uint32", 1)
    (choice,) = choose_encodings(volume.read, kind, CHUNK, [(2, 2, 1)], Downsampler("mode", "uint32"), "gzip", [AUTO])
    assert [box.shape for box in volume.boxes] == [(64, 64, 8)] * 16 + [(128, 128, 16)] * 4
    assert choice.bytes_by_encoding[choice.encoding] == min(choice.bytes_by_encoding.values())


class Uniform:
    """Looks like a volume of any size, and never makes more than one voxel of it."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.boxes: list[Box] = []

    def read(self, box: Box) -> Array:
        assert self.box.contains(box)
        assert box.voxels
        self.boxes.append(box)
        return np.broadcast_to(np.uint8(0), (*box.shape, 1))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(-5000, 5000)] * 3),
    st.tuples(*[st.integers(1, 20_000)] * 3),
    st.tuples(*[st.integers(1, 600)] * 3),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=9),
)
def test_samples_are_whole_coarse_voxels_of_bounded_size(
    offset: Vec, shape: Vec, chunk: Vec, factors: list[Vec]
) -> None:
    volume = Uniform(Box.of_shape(shape, offset))
    boxes = sample_boxes(volume.read, volume.box, chunk, factors)
    assert 1 <= len(boxes) == len(set(boxes)) <= 4
    total = (1, 1, 1)
    for factor in factors:
        x, y, z = (a * b for a, b in zip(total, factor, strict=True))
        if x * y * z > 2**13:
            break
        total = (x, y, z)
    for box in boxes:
        assert volume.box.contains(box)
        assert 0 < box.voxels <= 8 * 2**23
        for start, stop, first, end, coarse in zip(*box, *volume.box, total, strict=True):
            assert (start, stop) == (first, end) or (start % coarse, stop % coarse) == (0, 0)
    assert math.prod(total) <= 2**13


def test_chunks_that_may_be_chosen_hold_the_most_varied_voxels() -> None:
    chunk = (256, 256, 96)
    assert "compressed_segmentation" in candidates_for(
        SampledVolume(Box.of_shape(chunk), "segmentation", "uint64", 1), chunk
    )
    array = np.arange(math.prod(chunk), dtype=np.uint64).reshape((*chunk, 1), order="F")
    assert len(encode_chunk(array, "compressed_segmentation")) > array.nbytes


def test_a_type_that_no_encoding_holds_is_refused() -> None:
    with pytest.raises(OptionError, match=r"expected voxels of one of the types uint8.*came float64"):
        candidates_for(SampledVolume(Box.of_shape((8, 8, 8)), "image", "float64", 1), CHUNK)


def test_a_choice_tells_what_was_measured() -> None:
    assert str(Choice("png", {"raw": 12_345, "png": 6_789})) == "png (bytes of samples: png 6,789, raw 12,345)"
    assert str(Choice("raw")) == "raw"
