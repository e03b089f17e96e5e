"""Commands that apply a function to a small made-up volume: their specs, and what they leave behind."""

import json
from pathlib import Path
from typing import Any

from pipelines import apply

Spec = dict[str, Any]

SRC = "made://image?size=64,64,8&resolution=8,8,40&chunk=16,16,4"
SEGMENTATION = SRC.replace("image", "neurons")
RESOLUTION = [8, 8, 40]
SCALE = "8_8_40"
BOX = "0-64_0-64_0-8"
"""All of the source, in the names of files."""
OPS = "--import=tests.pipelines.apply_ops"

# Of the source 8 chunks of the top level, each of 9 for the function; 32 output boxes.
TWO_LEVELS = {
    "processing_chunk_sizes": [[32, 32, 4], [16, 16, 4]],
    "processing_crop_pads": [[0, 0, 0], [2, 2, 0]],
    "processing_blend_pads": [[8, 8, 0], [4, 4, 0]],
    "processing_blend_modes": "linear",
    "max_reduction_chunk_size": [16, 16, 4],
}


def layer(path: str, **arguments: Any) -> Spec:
    """Return the spec of a layer."""
    return {"@type": "build_cv_layer", "path": path, **arguments}


def new(url: str, src: str = SRC) -> Spec:
    """Return the spec of a layer that is made after the source."""
    return layer(url, info_reference_path=src, on_info_exists="overwrite")


def code(text: str = "lambda src: src") -> Spec:
    """Return the spec of a function."""
    return {"@type": "lambda", "lambda_str": text}


def bbox(start: list[int], end: list[int], resolution: list[int] = RESOLUTION) -> Spec:
    """Return the spec of a box."""
    return {"@type": "BBox3D.from_coords", "start_coord": start, "end_coord": end, "resolution": resolution}


def target(url: str, **changes: Any) -> Spec:
    """Return the spec of a flow that copies the source to `url`, but for `changes`; what is `...` is left out."""
    flow = {
        "@type": "build_subchunkable_apply_flow",
        "bbox": bbox([0, 0, 0], [64, 64, 8]),
        "dst_resolution": RESOLUTION,
        **TWO_LEVELS,
        "fn": code(),
        "op_kwargs": {"src": layer(SRC)},
        "dst": new(url),
        **changes,
    }
    return {name: value for name, value in flow.items() if value is not ...}


def write_spec(file: Path, flow: Any, **arguments: Any) -> Path:
    """Write the spec that runs a flow; return its file."""
    file.write_text(json.dumps({"@type": "mazepa.execute", **arguments, "target": flow}))
    return file


def run(spec: Path | str, *options: str) -> int:
    """Run a command; return its exit status."""
    return apply.main([f"--spec={spec}", "--processes=1", *options])


def report(folder: Path, box: str = BOX) -> Any:
    """Return the report of the run over a box."""
    return json.loads((folder / SCALE / "apply" / box / "report.json").read_text())


def receipts(folder: Path) -> list[Path]:
    """Return the receipts of finished units."""
    return sorted((folder / ".beam_volumes").glob("apply*/finished/*/*.json"))


def packs(folder: Path) -> list[Path]:
    """Return what finished elements have left for output boxes."""
    return sorted(folder.rglob("region-*.pack"))


def calls(log: Path) -> int:
    """Return how many calls are noted in a file."""
    return log.read_text().count("\n") if log.exists() else 0


def op(name: str, **arguments: Any) -> Spec:
    """Return the spec of a function of `apply_ops`, with arguments of its own."""
    return {"@type": name, "@mode": "partial", **arguments}
