import numpy as np
import pytest

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box
from beam_volumes.testing.made import open_made
from beam_volumes.testing.neurons import make_image, make_neurons


def test_neurons_fill_space_and_are_the_same_each_time() -> None:
    labels = make_neurons((96, 80, 24), seed=3)
    np.testing.assert_array_equal(labels, make_neurons((96, 80, 24), seed=3))
    assert labels.dtype == np.uint64
    assert labels.flags.f_contiguous
    ids = np.unique(labels)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert len(ids) > 10
    assert 0.02 < (labels == 0).mean() < 0.4
    assert (labels != make_neurons((96, 80, 24), seed=4)).mean() > 0.5


def test_images_show_membranes_darker() -> None:
    labels = make_neurons((64, 64, 16))
    image = make_image(labels)
    assert image.dtype == np.uint8
    assert image[labels == 0].mean() < 70
    assert image[labels > 0].mean() > 120


@pytest.mark.parametrize("dtype", ["uint64", "uint32", "uint16", "uint8"])
def test_any_box_is_the_same_however_it_is_read(dtype: str) -> None:
    volume = open_made(f"made://neurons?size=300,70,20&offset=-10,5,7&dtype={dtype}")
    whole = volume.read(volume.box)
    assert whole.shape == (300, 70, 20, 1)
    assert whole.dtype == dtype
    assert whole.flags.f_contiguous
    box = Box((200, 11, 9), (290, 75, 22))
    np.testing.assert_array_equal(volume.read(box), whole[box.slices(volume.box.start)])


def test_repeated_tiles_have_other_ids_and_the_same_membranes() -> None:
    volume = open_made("made://neurons?size=512,64,16&seed=1")
    left, right = volume.read(Box((0, 0, 0), (256, 64, 16))), volume.read(Box((256, 0, 0), (512, 64, 16)))
    np.testing.assert_array_equal(left == 0, right == 0)
    assert not np.intersect1d(left[left > 0], right[right > 0]).size
    small = open_made("made://neurons?size=512,64,16&seed=1&dtype=uint8")
    np.testing.assert_array_equal(small.read(Box((256, 0, 0), (512, 64, 16))) == 0, right == 0)


def test_a_solid_is_one_object() -> None:
    volume = open_made("made://solid?size=30,20,10&offset=1,2,3&dtype=uint16")
    assert volume.info()["type"] == "segmentation"
    voxels = volume.read(Box((3, 4, 5), (30, 20, 10)))
    assert (voxels.shape, str(voxels.dtype), voxels.flags.f_contiguous) == ((27, 16, 5, 1), "uint16", True)
    assert (voxels == 1).all()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("made://neurons", "expected made://neurons"),
        ("made://cats?size=1,1,1", "expected made://neurons"),
        ("made://neurons?size=1,1,1&sead=3", "came made://neurons"),
        ("made://neurons?size=1,1", "expected three whole numbers, came 1,1 in"),
        ("made://neurons?size=1,0,1", "expected 1 or more, came 1,0,1"),
        ("made://neurons?size=1,1,1&dtype=int8", r"expected dtype=uint64\|.*came int8"),
        ("made://image?size=1,1,1&dtype=uint64", "expected dtype=uint8 in"),
        ("made://neurons?size=1,1,1&seed=-1", "expected a whole number as seed"),
    ],
)
def test_a_wrong_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_made(url)
