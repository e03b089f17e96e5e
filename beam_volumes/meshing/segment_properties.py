"""A table of the labels that have meshes, which Neuroglancer shows, sorts and searches: label and number of voxels.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/segment_properties.md. Readers
take it in as a whole, so that it is of use for some hundred thousand labels, and only written on request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from beam_volumes.errors import OptionError
from beam_volumes.meshing.label_rows import LABEL_ROW
from beam_volumes.meshing.mesh_info import PROPERTIES_FOLDER
from beam_volumes.meshing.mesh_plan import MeshPlan
from beam_volumes.parcels import Parcel, ParcelReader
from beam_volumes.runs import check_claim, remove_records
from beam_volumes.storage import Folder

MOST_LABELS = 2_000_000
"""Some 60 MB of JSON, which a browser takes in before it shows anything."""


def check_number(plan: MeshPlan, labels: int) -> int:
    """Return the number of labels that are meshed, where they fit the table, if one is wanted; before any is meshed.

    Raises:
        OptionError: there are more than a reader can take in; the place is free for another try.

    """
    if plan.output.segment_properties and labels > MOST_LABELS:
        remove_records(plan.claim)
        raise OptionError(
            f"--segment_properties: expected at most {MOST_LABELS:,} labels, which readers take in as a whole, came "
            f"{labels:,}: leave it out, or raise --dust_threshold"
        )
    return labels


def write_properties(plan: MeshPlan, parcels: Sequence[Parcel]) -> int:
    """Write the table of all labels that are meshed, and return how many there are.

    Memory: 16 bytes for each label, and its text.

    Raises:
        DestinationError: it cannot be written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    with ParcelReader(plan.claim.scratch, parcels) as reader:
        rows = reader.table(LABEL_ROW)
    rows = rows[np.argsort(rows["label"])]
    content = {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(label) for label in rows["label"].tolist()],
            "properties": [
                {
                    "id": "voxels",
                    "type": "number",
                    "data_type": "float32",
                    "description": f"voxels of mip {plan.source.mip}",
                    "values": [float(np.float32(n)) for n in rows["voxels"].tolist()],
                }
            ],
        },
    }
    data = json.dumps(content, separators=(",", ":")).encode()
    name = f"{plan.folder}/{PROPERTIES_FOLDER}/info"
    Folder(plan.claim.url).write(name, data, content_type="application/json")
    return len(rows)
