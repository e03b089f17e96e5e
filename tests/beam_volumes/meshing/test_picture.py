import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from beam_volumes.meshing.picture import BoxNm, LabelMesh, color_of, render_meshes, scale_bar

SIZE = (400, 300)
CUBE: BoxNm = ((0.0, 0.0, 0.0), (1000.0, 1000.0, 1000.0))
Pixels = npt.NDArray[np.int64]


def sphere(label: int, center: tuple[float, float, float], radius: float, steps: int = 24) -> LabelMesh:
    """Return a closed sphere, of meridians and parallels."""
    turn = np.linspace(0, 2 * np.pi, 2 * steps, endpoint=False)
    tilt = np.linspace(0, np.pi, steps + 1)
    places = np.stack(
        [
            np.outer(np.sin(tilt), np.cos(turn)),
            np.outer(np.sin(tilt), np.sin(turn)),
            np.outer(np.cos(tilt), turn * 0 + 1),
        ],
        axis=-1,
    )
    below, right = np.meshgrid(np.arange(steps), np.arange(2 * steps), indexing="ij")
    here, next_right = below * 2 * steps + right, below * 2 * steps + (right + 1) % (2 * steps)
    lower, lower_right = here + 2 * steps, next_right + 2 * steps
    faces = np.concatenate([np.stack([here, lower, next_right], -1), np.stack([next_right, lower, lower_right], -1)])
    vertices = np.array(center) + radius * places.reshape(-1, 3)
    return label, vertices.astype(np.float32), faces.reshape(-1, 3).astype(np.uint32)


def rendered(meshes: Iterable[LabelMesh], box_nm: BoxNm | None = CUBE, size: tuple[int, int] = SIZE) -> Pixels:
    """Return the pixels: (rows, columns, RGB)."""
    with Image.open(io.BytesIO(render_meshes(meshes, size, box_nm=box_nm))) as image:
        assert image.size == size
        return np.asarray(image.convert("RGB")).astype(np.int64)


def drawn(mesh: LabelMesh) -> npt.NDArray[np.bool_]:
    """Return which pixels a mesh alone has changed."""
    return np.any(rendered([mesh]) != rendered([]), axis=-1)


def middle(mesh: LabelMesh) -> npt.NDArray[np.float64]:
    """Return the mean place of a mesh: pixels to the right, and down."""
    return np.argwhere(drawn(mesh)).mean(axis=0)[::-1]


def hue_of(color: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return color / np.linalg.norm(color)


def linear(color: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    part = color / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def test_x_goes_to_the_right_y_down_and_z_away() -> None:
    center = middle(sphere(1, (500, 500, 500), 60))
    x, y, z = (middle(sphere(1, place, 60)) - center for place in ((900, 500, 500), (500, 900, 500), (500, 500, 900)))
    # From above and from the side: what is far away is higher, and to the right.
    assert x[0] > abs(x[1]) > 0
    assert y[1] > 0
    assert abs(y[0]) < 1
    assert z[0] > 0 > z[1]
    # Not a mirror image: from x to y it goes clockwise, as seen from where z comes from.
    assert x[0] * y[1] - x[1] * y[0] > 0
    near, far = sphere(1, (900, 100, 100), 60), sphere(2, (900, 100, 900), 60)
    assert middle(near)[1] > middle(far)[1]


def test_a_sphere_is_a_disk_without_holes() -> None:
    mask = drawn(sphere(1, (500, 500, 500), 400))
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    assert abs(len(rows) - len(columns)) <= 2
    for row in range(int(rows[0]), int(rows[-1]) + 1):
        inside = np.flatnonzero(mask[row, :])
        assert len(inside) == inside[-1] - inside[0] + 1
    assert mask.sum() == pytest.approx(np.pi * (len(rows) / 2) ** 2, rel=0.03)


def test_the_scale_bar_tells_the_length() -> None:
    size = (800, 600)
    picture = rendered([sphere(1, (500, 500, 500), 400)], size=size)
    empty = rendered([], size=size)
    width = np.flatnonzero(np.any(picture != empty, axis=(0, 2)))
    bar = np.all(empty[540:, 400:] < 60, axis=-1).sum(axis=1).max()
    # 800 nm are so many pixels; the bar is the longest round length up to a fifth of the picture.
    pixels_per_nm = len(width) / 800
    assert bar / pixels_per_nm == pytest.approx(scale_bar(0.2 * 800 / pixels_per_nm)[0], rel=0.03)


def test_a_mesh_has_the_color_of_its_label() -> None:
    for label in (1, 2, 2**64 - 1):
        picture = rendered([sphere(label, (500, 500, 500), 400)])
        column, row = np.rint(middle(sphere(label, (500, 500, 500), 400))).astype(int)
        # A little of the upper left, where the light comes from; haze and gloss are white.
        seen = linear(picture[row - 20, column - 20])
        assert hue_of(seen) @ hue_of(np.array(color_of(label))) > 0.97


def test_light_comes_from_the_upper_left() -> None:
    picture = rendered([sphere(5, (500, 500, 500), 400)]).sum(axis=-1)
    column, row = np.rint(middle(sphere(5, (500, 500, 500), 400))).astype(int)
    assert picture[row - 40, column - 40] > picture[row, column] > picture[row + 40, column + 10]


def test_what_is_nearer_hides_what_is_farther() -> None:
    crossing = [sphere(3, (500, 400, 400), 300), sphere(4, (500, 600, 600), 300)]
    assert render_meshes(crossing, SIZE, box_nm=CUBE) == render_meshes(crossing[::-1], SIZE, box_nm=CUBE)
    outer, inner = sphere(3, (500, 500, 500), 300), sphere(4, (500, 500, 500), 200)
    assert np.array_equal(rendered([outer, inner]), rendered([outer]))
    assert np.array_equal(rendered([inner, outer]), rendered([outer]))


def test_a_near_sphere_is_seen_before_a_far_one() -> None:
    toward_eye = -np.array([-np.sin(np.radians(33)) * np.cos(np.radians(24)), np.sin(np.radians(24)), 0.767])
    place = np.array([500.0] * 3) + 350 * toward_eye / np.linalg.norm(toward_eye)
    near = sphere(3, (float(place[0]), float(place[1]), float(place[2])), 60)
    far = sphere(4, (500, 500, 500), 200)
    column, row = np.rint(middle(far)).astype(int)
    assert np.abs(middle(near) - middle(far)).max() < 2
    for meshes in ([near, far], [far, near]):
        picture = rendered(meshes)
        assert picture[row, column].tolist() == rendered([near])[row, column].tolist()
        assert picture[row, column].tolist() != rendered([far])[row, column].tolist()


def test_the_inside_of_an_open_mesh_is_seen_and_darker() -> None:
    label, vertices, faces = sphere(5, (500, 500, 500), 400)
    column, row = np.rint(middle((label, vertices, faces))).astype(int)
    outside = rendered([(label, vertices, faces)])[row, column]
    inside = rendered([(label, vertices, faces[:, ::-1])])[row, column]
    assert (inside < outside).all()


def test_where_two_objects_touch_each_has_its_side() -> None:
    _, vertices, faces = sphere(0, (500, 500, 500), 400)
    own = rendered([(5, vertices, faces)])
    # Another object around it, whose wall is seen from within at the same place.
    for meshes in (
        [(5, vertices, faces), (6, vertices, faces[:, ::-1])],
        [(6, vertices, faces[:, ::-1]), (5, vertices, faces)],
    ):
        assert np.abs(rendered(meshes) - own).max() <= 2


def test_equal_meshes_give_equal_bytes() -> None:
    meshes = [sphere(n, (100 + 90 * n, 500, 500), 60) for n in range(8)]
    first = render_meshes(meshes, SIZE, box_nm=CUBE, title="Meshes")
    assert first.startswith(b"\x89PNG\r\n")
    assert render_meshes(iter(meshes), SIZE, box_nm=CUBE, title="Meshes") == first
    for _, vertices, faces in meshes:
        vertices.flags.writeable = faces.flags.writeable = False
    assert render_meshes(meshes, SIZE, box_nm=CUBE, title="Meshes") == first
    assert render_meshes(meshes, SIZE, box_nm=CUBE, title="Others") != first


def test_without_a_box_the_meshes_fill_the_picture() -> None:
    meshes = [sphere(1, (5e6, 5e6, 5e6), 1000), sphere(2, (5e6 + 3000, 5e6, 5e6), 1000)]
    box = ((5e6 - 1000,) * 3, (5e6 + 4000, 5e6 + 1000, 5e6 + 1000))
    picture = rendered(iter(meshes), None)
    assert np.array_equal(picture, rendered(meshes, box))
    columns = np.flatnonzero((picture[:250] < 250).any(axis=(0, 2)))
    assert len(columns) > 0.8 * SIZE[0]


def test_the_picture_may_hold_less_than_the_meshes() -> None:
    box = ((400.0,) * 3, (600.0,) * 3)
    picture = rendered([sphere(1, (500, 500, 500), 5000), sphere(2, (9000, 500, 500), 100)], box)
    # A pixel of its own color wherever no letters, lines or haze are.
    assert (picture[50:200].sum(axis=-1) < 750).all()


@pytest.mark.parametrize(
    "meshes", [[], [(5, np.empty((0, 3), np.float32), np.empty((0, 3), np.uint32))]], ids=["none", "without faces"]
)
def test_a_picture_of_nothing_says_so(meshes: list[LabelMesh]) -> None:
    picture = rendered(meshes, None)
    assert (picture[0, 0] == 255).all()
    written = np.argwhere((picture < 128).any(axis=-1))
    assert len(written) > 20
    assert np.abs(written.mean(axis=0) - [150, 200]).max() < 5
    with_frame = rendered(meshes, CUBE)
    assert (with_frame[:, :, 0] < 250).sum() > 200


def test_flat_and_tiny_meshes_can_be_drawn() -> None:
    point = (1, np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))
    assert rendered([point], None).min() < 100
    square = np.array([[0, 0, 5], [0, 10, 5], [10, 10, 5], [10, 0, 5]], np.float32)
    picture = rendered([(1, square, np.array([[0, 1, 2], [0, 2, 3]], np.uint32))], None)
    assert (picture[20:250, 50:350] < 240).any(axis=-1).sum() > 1_000


def test_colors_differ_are_stable_and_can_be_read_on_white() -> None:
    colors = np.array([color_of(label) for label in range(1, 1001)])
    assert len(np.unique(colors.round(3), axis=0)) > 990
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert luminance.min() > 0.1
    assert luminance.max() < 0.55
    assert color_of(1) == pytest.approx((0.013, 0.292, 0.162), abs=1e-3)
    assert color_of(720575940621039145) == pytest.approx((0.388, 0.179, 0.555), abs=1e-3)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, (1, "1 nm")),
        (199, (100, "100 nm")),
        (999, (500, "500 nm")),
        (1000, (1000, "1 µm")),
        (7_300, (5000, "5 µm")),
        (25_000, (20_000, "20 µm")),
        (3e6, (2e6, "2 mm")),
        (0.3, (0.2, "0.2 nm")),
    ],
)
def test_lengths_of_scale_bars(most: float, expected: tuple[float, str]) -> None:
    length, text = scale_bar(most)
    assert length == pytest.approx(expected[0])
    assert text == expected[1]


@pytest.mark.parametrize("size", [(100, 300), (300, 5000), (0, 0)])
def test_sizes_that_cannot_be_drawn_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected 128 to 4096 pixels each way, came"):
        render_meshes([], size)
