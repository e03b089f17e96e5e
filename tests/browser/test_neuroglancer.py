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

from pipelines import export
from tests.browser.chromium import Page
from tests.browser.file_server import FileServer
from tests.browser.viewer import PATH, Pixels, Viewer, client_folder, pixels_of
from tests.pipelines.conftest import with_cloudvolume

SHAPE = (256, 256, 64)
NM = (16, 16, 40)
GREY = 0x808080
"""Of what is not in a volume, and of label 0."""

ASIDE = 0.25
"""Voxels from the middle of a volume: no center of a pixel is between two voxels then, whatever the size of a panel."""

Ids = npt.NDArray[np.uint64]


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
    x, y, z = SHAPE
    return {
        "dimensions": {axis: [nm * 1e-9, "m"] for axis, nm in zip("xyz", NM, strict=True)},
        "position": [x / 2 + ASIDE, y / 2 + ASIDE, z / 2 + 0.5],
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


def section(labels: Ids, mip: int, shape: tuple[int, ...], pixel: float) -> npt.NDArray[np.int64]:
    """Return the label in each pixel of a panel that shows the middle slice, 0 where there is no voxel.

    Args:
        labels: of the mip.
        mip: each halves x and y.
        shape: pixels of the panel, rows and columns.
        pixel: its size in voxels of mip 0.

    """
    middle = np.pad(labels[:, :, SHAPE[2] // 2].T.astype(np.int64), 1)
    places = []
    for voxels, pixels in zip((SHAPE[1], SHAPE[0]), shape, strict=True):
        centers = voxels / 2 + ASIDE + (np.arange(pixels) + 0.5 - pixels / 2) * pixel
        places.append(np.clip(np.floor(centers / 2**mip).astype(int), -1, voxels >> mip) + 1)
    return middle[np.ix_(*places)]


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
        expected = section(with_cloudvolume(url, mip)[..., 0], mip, panel.shape[:2], 2**mip)
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
