"""Volumes of the pipelines in a real Neuroglancer: its compiled client, as the package `neuroglancer` has it, in a
headless Chromium with WebGL on the processor, from a server on this machine.

What it draws is compared with the voxels. What the page looked like is saved in `out/browser`, a picture for each test.
Without Chromium the tests are skipped, but fail where `CI` is set, as `.ci/run` does.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines import export, mesh
from tests.browser.chromium import Page
from tests.browser.file_server import FileServer
from tests.browser.viewer import PATH, Pixels, Viewer, client_folder, pixels_of
from tests.pipelines.conftest import with_cloudvolume

SHAPE = (256, 256, 64)
NM = (16, 16, 40)
GREY = 0x808080
"""Of what is not in a volume, and of label 0."""

ASIDE = 0.25
"""Voxels along x from the middle: no center of a pixel is between two voxels then, whatever the size of a panel."""

COLORS = (0xFF0000, 0x00FF00, 0x0000FF, 0xFFFF00, 0x00FFFF, 0xFF00FF)
"""They differ in which of red, green and blue they have, however the light falls."""

ALONG_Y = (0.5**0.5, 0, 0, 0.5**0.5)
"""The rotation with x to the right and z down."""

FORMS = {
    "shards": ["--num_lods=3", "--dust_threshold=20000"],
    "files": ["--num_lods=3", "--sharded=false"],
    "legacy": ["--format=legacy"],
}
"""Options for meshes in each form that Neuroglancer reads."""

Plane = npt.NDArray[Any]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """Serves the client, and `volume` in the test's folder."""
    with FileServer({PATH: client_folder(), "/volume": tmp_path / "volume"}) as server:
        yield server


@pytest.fixture
def viewer(server: FileServer, page: Page) -> Viewer:
    # The page is gone before the server, which waits for what is under way.
    return Viewer(page, server)


def export_neurons(folder: Path, *options: str) -> str:
    """Export a made volume; return its URL."""
    src, url = f"made://neurons?size={','.join(map(str, SHAPE))}", f"file://{folder / 'volume'}"
    assert export.main([f"--src={src}", f"--dst={url}", "--chunk_size=64,64,32", "--processes=1", *options]) == 0
    return url


def state(server: FileServer, layer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the state that shows the volume and nothing else, with the middle of it in the middle."""
    source = f"precomputed://{server.url}/volume"
    aside = [ASIDE * NM[0] / nm for nm in NM]
    return {
        "dimensions": {axis: [nm * 1e-9, "m"] for axis, nm in zip("xyz", NM, strict=True)},
        "position": [n / 2 + a for n, a in zip(SHAPE, aside, strict=True)],
        "layers": [{"type": "segmentation", "name": "volume", "source": source, "selectedAlpha": 1, **layer}],
        **{name: False for name in ("showAxisLines", "showDefaultAnnotations", "showScaleBar")},
        **more,
    }


def save(viewer: Viewer, picture: Path) -> Pixels:
    """Save what the page looks like; return it."""
    picture.write_bytes(viewer.page.screenshot())
    sys.stdout.write(f"what the browser showed: {picture}\n")
    return pixels_of(picture.read_bytes())


def codes(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Return RGB as one number for each pixel."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def color(label: Any) -> Any:
    """Return a color for each label under a thousand, none of them grey."""
    return 0x10FF + 0x3D09 * label


def seen(plane: Plane, shape: tuple[int, ...], pixel: float, voxel: tuple[float, float] = (1, 1)) -> Plane:
    """Return what a panel shows of a plane of voxels with its middle in the middle of the panel; 0 beside it.

    Args:
        plane: as rows and columns.
        shape: of the panel in pixels, rows and columns.
        pixel: its size, in voxels of mip 0 along x.
        voxel: its size, in the same unit, along rows and columns.

    """
    places = []
    for voxels, pixels, size in zip(plane.shape, shape, voxel, strict=True):
        from_middle = (np.arange(pixels) + 0.5 - pixels / 2) * pixel + ASIDE
        places.append(np.clip(np.floor(voxels / 2 + from_middle / size).astype(int), -1, voxels) + 1)
    return np.pad(plane, 1)[np.ix_(*places)]


@pytest.mark.parametrize(
    ("encoding", "sharded"),
    [("compressed_segmentation", True), ("compresso", True), ("raw", False)],
)
def test_sections_show_every_voxel(viewer: Viewer, tmp_path: Path, picture: Path, encoding: str, sharded: bool) -> None:
    url = export_neurons(tmp_path, f"--encoding={encoding}", f"--sharded={sharded}", "--num_mips=1")
    labels = with_cloudvolume(url)[..., 0]
    layer = {"segmentColors": {str(n): f"#{color(n):06x}" for n in range(1, int(labels.max()) + 1)}}
    for mip in (0, 1):
        viewer.show(state(viewer.server, layer, layout="xy", crossSectionScale=2**mip))
        assert viewer.errors() == []
        [panel] = viewer.panels()
        middle = with_cloudvolume(url, mip)[:, :, SHAPE[2] // 2, 0].T.astype(np.int64)
        expected = seen(middle, panel.shape[:2], 2**mip, (2**mip, 2**mip))
        assert len(np.unique(expected)) > 50
        assert np.array_equal(codes(panel), np.where(expected > 0, color(expected), GREY))
    shown = codes(save(viewer, picture))
    assert len(np.intersect1d(shown, color(np.unique(expected)))) > 50
    chunks = [r for r in viewer.server.below("/volume") if r.path != "/volume/info"]
    assert {(r.path.endswith(".shard"), r.status) for r in chunks} == {(sharded, 206 if sharded else 200)}


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_errors_are_seen(viewer: Viewer, tmp_path: Path, fault: str) -> None:
    export_neurons(tmp_path, "--encoding=compresso")
    shard = tmp_path / "volume/16_16_40/0.shard"
    if fault == "missing":
        shard.unlink()
    else:
        # The shard index stands before the chunks, the minishard indices behind them.
        data = shard.read_bytes()
        start, stop = 16 << 3, len(data) * 9 // 10
        shard.write_bytes(data[:start] + b"\xff" * (stop - start) + data[stop:])
    viewer.show(state(viewer.server, {}, layout="xy", crossSectionScale=1))
    expected = "status 404: /volume/16_16_40/0.shard" if fault == "missing" else "Error retrieving chunk"
    assert any(expected in error for error in viewer.errors())


def outlines_agree(panel: Pixels, side: Plane, extent: float, rows: float = 1) -> float:
    """Return which part of what is drawn, or should be, is both.

    Args:
        panel: of the meshes.
        side: what there is, looked at along an axis; rows and columns.
        extent: of the panel's rows, in voxels along x.
        rows: the size of a voxel of `side` along rows, in the same unit.

    """
    expected = seen(side, panel.shape[:2], extent / len(panel), (rows, 1))
    drawn = panel.any(axis=2)
    return float(np.count_nonzero(drawn & expected) / np.count_nonzero(drawn | expected))


@pytest.mark.parametrize("form", FORMS)
def test_meshes_are_where_the_voxels_are(viewer: Viewer, tmp_path: Path, picture: Path, form: str) -> None:
    url = export_neurons(tmp_path)
    voxels = with_cloudvolume(url)[..., 0]
    labels, counts = np.unique(voxels[voxels > 0], return_counts=True)
    colors = dict(zip(labels[np.argsort(counts)][-len(COLORS) :].tolist(), COLORS, strict=True))
    names = [str(label) for label in colors]
    options = FORMS[form]
    if form != "shards":
        # Shards are to hold many; for all else this is faster.
        options = [*options, f"--labels={','.join(names)}"]
    assert mesh.main([f"--layer={url}", "--cell_size=64,64,32", "--processes=1", *options]) == 0
    layer = {
        "segments": names,
        "segmentColors": {name: f"#{color:06x}" for name, color in zip(names, COLORS, strict=True)},
        # Pixels on the screen for each of a level of detail: from afar the coarsest will do.
        "meshRenderScale": 20,
    }
    chosen: Plane = np.isin(voxels, list(colors))

    # Sections, and meshes as a whole.
    panels = {"type": "4panel", "orthographicProjection": True}
    viewer.show(state(viewer.server, layer, layout=panels, showSlices=False, crossSectionScale=1, projectionScale=400))
    save(viewer, picture)
    assert viewer.errors() == []
    section, _, solid, _ = viewer.panels()
    painted = np.zeros(int(labels.max()) + 1, np.int64)
    painted[list(colors)] = COLORS
    shown = seen(painted[voxels[:, :, SHAPE[2] // 2]].T, section.shape[:2], 1)
    assert np.array_equal(codes(section), np.where(shown > 0, shown, GREY))
    assert set(np.unique((solid > 0) @ [4, 2, 1])) == {0, *range(1, 7)}
    assert outlines_agree(solid, np.any(chosen, axis=2).T, 400) > 0.97
    if form != "legacy":
        assert {(f.label, f.lod) for f in viewer.fragments()} == {(label, 2) for label in colors}

    # From the side, and so near that the finest level of detail is called for.
    near = {"projectionScale": 100, "projectionOrientation": ALONG_Y}
    viewer.show(state(viewer.server, layer, layout=panels | {"type": "3d"}, showSlices=False, **near))
    save(viewer, picture.with_stem(f"{picture.stem}_near"))
    assert viewer.errors() == []
    [solid] = viewer.panels()
    assert outlines_agree(solid, np.any(chosen, axis=1).T, 100, NM[2] / NM[0]) > 0.95
    if form != "legacy":
        assert {f.lod for f in viewer.fragments()} == {0, 1, 2}
    statuses = {r.status for r in viewer.server.below("/volume/mesh") if r.path != "/volume/mesh/info"}
    assert statuses == {"shards": {206}, "files": {200, 206}, "legacy": {200}}[form]
