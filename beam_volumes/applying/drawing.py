"""The picture of a run: a slice of what was read, beside what was written."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator

from beam_volumes.applying.inputs import planned_reads
from beam_volumes.applying.picture import Panel, pictured_box, slice_picture
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.worker import worker_of
from beam_volumes.geometry import Box
from beam_volumes.layers import VolumetricLayer
from beam_volumes.layers.tensors import to_array
from beam_volumes.storage import Folder

PICTURE = "slice.png"
"""Beside the report."""

_MOST = 1024
"""Voxels along x and y."""


def write_picture(plan: ApplyPlan) -> None:
    """Draw a slice of each input that is an image or a segmentation, and of each output, beside the report.

    Layers that cannot be read there are left out, as is all of the picture where none can, or where it cannot be drawn
    or written: the run is complete, with or without it. Mode defer has no output that could be shown.

    Memory: 1024 x 1024 voxels of each.
    """
    folder, name = Folder(plan.claim.url), _name(plan)
    # The run is complete: nothing that goes wrong here, such as a full disk, may make it one that has failed.
    with contextlib.suppress(Exception):
        if not folder.exists(name) and (panels := _panels(plan)):
            folder.write(name, slice_picture(panels), content_type="image/png")


def remove_picture(plan: ApplyPlan) -> None:
    """Remove the picture of a run that this one replaces.

    Raises:
        DestinationError: it cannot be removed.

    """
    Folder(plan.claim.url).delete([_name(plan)])


def _name(plan: ApplyPlan) -> str:
    return posixpath.join(posixpath.dirname(plan.claim.report), PICTURE)


def _panels(plan: ApplyPlan) -> list[Panel]:
    flow = worker_of(plan).flow
    box = pictured_box(plan.subchunks.bounds, _MOST)
    panels: list[Panel] = []
    for title, layer in _layers(plan, box):
        # A slice may be none of whole stored voxels, or none that is stored; and processors are code of the user's.
        with contextlib.suppress(Exception):
            values = to_array(layer[flow.index(box)])
            if values.ndim == len("CXYZ") and values.size:
                panels.append(Panel(title, values, box, _is_ids(layer) and values.dtype.kind in "iu"))
    return panels


def _layers(plan: ApplyPlan, box: Box) -> Iterator[tuple[str, VolumetricLayer]]:
    """Yield what is shown, and its title."""
    flow = worker_of(plan).flow
    for read in planned_reads(flow.op_kwargs, flow.index(box)):
        # As it is given to the function, at the destination's resolution.
        yield read.path, read.layer
    # Of mode defer nothing is in the destination.
    for output in () if plan.deferred else flow.outputs:
        yield output.name or "dst", output.layer


def _is_ids(layer: VolumetricLayer) -> bool:
    return layer.backend.layer_type == "segmentation"
