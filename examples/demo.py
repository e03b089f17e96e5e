"""Export a made-up proofreading volume as it was at one moment, check every voxel, and draw a slice.

    python -m examples.demo

It starts a proofreading server on this machine, over a volume that looks like neurons and has been edited twice, and
gives the same command that exports a real one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume
from PIL import Image, ImageDraw

from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.neurons import make_neurons
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server
from pipelines import export

FOLDER = Path("out/demo")
SHAPE = (320, 256, 80)
TIMESTAMP = DEMO_TIMES[1]

Ids = npt.NDArray[np.uint64]


def main() -> int:
    """Run the demonstration; return 0 when every voxel is right."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    destination = f"file://{(FOLDER / 'segmentation').absolute()}"
    with demo_server(FOLDER, make_neurons(SHAPE)) as server:
        arguments = [f"--src={server.url}", f"--dst={destination}", f"--timestamp={TIMESTAMP}", "--chunk_size=64,64,32"]
        print(f"$ python -m pipelines.export {' '.join(arguments)}", flush=True)
        if status := export.main(arguments):
            return status
        before, after = _voxels(server.watershed_url), _voxels(destination)
        wrong = int(np.count_nonzero(after != server.graph.roots(before, TIMESTAMP)))
        _print_comparison(server, before, after, wrong)
    _draw(before, after).save(FOLDER / "slice.png")
    print(f"a slice of supervoxels, and of the roots they had: {FOLDER / 'slice.png'}")
    print(f"open it in Python: CloudVolume('{destination}')[:, :, 40]")
    return 1 if wrong else 0


def _voxels(url: str) -> Ids:
    """Return all voxels of a volume of one channel, XYZ."""
    return np.asarray(CloudVolume(url, progress=False)[:])[..., 0]


def _print_comparison(server: ProofreadingServer, before: Ids, after: Ids, wrong: int) -> None:
    supervoxels, roots = np.unique(before[before > 0]), np.unique(after[after > 0])
    edited = np.count_nonzero(server.graph.roots(supervoxels, TIMESTAMP) != server.graph.roots(supervoxels))
    print(f"{len(supervoxels):,} supervoxels became {len(roots):,} roots")
    print(f"{edited:,} supervoxels have another root today: later edits are not in the export")
    print(f"{after.size:,} voxels compared with the server's history: {wrong:,} differ")


def _draw(before: Ids, after: Ids) -> Image.Image:
    """Return the middle slice of both, side by side, each id in a color of its own."""
    z, scale = before.shape[2] // 2, 2
    panels = [("before: supervoxels", before), ("after: roots", after)]
    width, height = before.shape[0] * scale, before.shape[1] * scale
    picture = Image.new("RGB", (2 * width + 30, height + 40), "white")
    draw = ImageDraw.Draw(picture)
    for i, (title, ids) in enumerate(panels):
        panel = Image.fromarray(_colors(ids[:, :, z].T)).resize((width, height), Image.Resampling.NEAREST)
        left = 10 + i * (width + 10)
        draw.text((left, 10), title, fill="black")
        picture.paste(panel, (left, 30))
    return picture


def _colors(ids: Ids) -> npt.NDArray[np.uint8]:
    """Return RGB for each id; 0 is black."""
    values, ranks = np.unique(ids, return_inverse=True)
    colors = np.random.default_rng(0).integers(70, 256, (len(values), 3), dtype=np.uint8)
    colors[values == 0] = 0
    return colors[ranks.reshape(ids.shape)]


if __name__ == "__main__":
    sys.exit(main())
