"""The picture of a run: a slice of what was read, beside what was written."""

from __future__ import annotations

import posixpath

from beam_volumes.applying.inputs import planned_reads
from beam_volumes.applying.picture import Panel, pictured_box, slice_picture
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.worker import worker_of
from beam_volumes.layers.tensors import to_array
from beam_volumes.storage import Folder

PICTURE = "slice.png"
"""Beside the report."""

_MOST = 1024
"""Voxels along x and y."""


def write_picture(plan: ApplyPlan) -> None:
    """Draw a slice of each input that is an image or a segmentation, and of each output, beside the report.

    Memory: 1024 x 1024 voxels of each.
    """
    folder, name = Folder(plan.claim.url), posixpath.join(posixpath.dirname(plan.claim.report), PICTURE)
    if not folder.exists(name):
        folder.write(name, slice_picture(_panels(plan)), content_type="image/png")


def _panels(plan: ApplyPlan) -> list[Panel]:
    flow = worker_of(plan).flow
    box = pictured_box(plan.subchunks.bounds, _MOST)
    panels = []
    for read in planned_reads(flow.op_kwargs, flow.index(box)):
        # As it is given to the function, at the destination's resolution.
        values = to_array(read.layer[flow.index(box)])
        panels.append(Panel(read.path, values, box, read.layer.backend.layer_type == "segmentation"))
    for output in flow.outputs:
        values = to_array(output.layer[flow.index(box)])
        panels.append(Panel(output.name or "dst", values, box, output.is_segmentation))
    return panels
