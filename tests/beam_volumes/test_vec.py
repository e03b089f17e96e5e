"""Arithmetic on three numbers, and their text."""

from beam_volumes.geometry import added, product, shape_text


def test_components_are_multiplied_and_added() -> None:
    assert product((2, 3, -5), (7, 11, 2**70)) == (14, 33, -5 * 2**70)
    assert added((2, 3, -5), (7, -11, 2**70)) == (9, -8, 2**70 - 5)


def test_a_shape_is_written_with_its_sides_in_order() -> None:
    assert shape_text((64, 128, 1)) == "64 x 128 x 1"
