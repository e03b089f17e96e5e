"""Fragments of which files are missing, once they were complete: these files are made anew, and no others.

What is made is what was there, to the last byte, so the report stays as it is, and so does the version of the
fragments, which merges go by: one that was refused for want of a file goes on.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace

from beam_volumes.geometry import Grid
from beam_volumes.meshing.legacy import frags_name
from beam_volumes.meshing.mesh_plan import MeshPlan, Remade
from beam_volumes.number_lists import NumberList
from beam_volumes.runs import Claim
from beam_volumes.storage import Folder, join, stored_name


def remaking(plan: MeshPlan, dust_threshold: int) -> MeshPlan:
    """Return the plan of a run that makes the files that are missing of complete fragments; `plan` where none is.

    Whether a label is dust only the voxels of all cells tell. Without a threshold it is enough to count the cells
    themselves, and those that tell them of common planes.
    """
    if plan.claim.state != "complete":
        return plan
    missing = _missing_cells(plan)
    if not missing:
        return plan
    # Packs tell each other of the cells that there are: those of other files that were missing are of no use.
    kind = hashlib.sha256(missing.data).hexdigest()[:16]
    claim = replace(plan.claim, state="incomplete", scratch=join(plan.claim.scratch, kind))
    counted = None if dust_threshold else NumberList.of(_telling(plan.cells, missing.array.tolist()))
    return replace(plan, claim=claim, remade=Remade(missing, counted))


def whole_claim(plan: MeshPlan) -> Claim:
    """Return the claim with the scratch folder of all runs of its key, however many files each has made anew."""
    claim = plan.claim
    return claim if plan.remade is None else replace(claim, scratch=claim.scratch.rpartition("/")[0])


def _missing_cells(plan: MeshPlan) -> NumberList:
    folder = join(plan.claim.url, plan.folder)
    found = {entry.name for entry in Folder(folder).entries()}

    def names(cell: int) -> set[str]:
        of_index = {stored_name(folder, plan.index.grid.name(cell), "gzip")} if plan.index else set[str]()
        return {frags_name(plan.own_voxels(cell)), *of_index}

    return NumberList.of(cell for cell in range(len(plan.cells)) if not names(cell) <= found)


def _telling(cells: Grid, wanted: Iterable[int]) -> set[int]:
    """Return the wanted cells, and those below them, up to seven of each; see `SharedPlanes`."""
    found = set[int]()
    for cell in wanted:
        steps = ((n - 1, n) if n else (n,) for n in cells.position(cell))
        found |= {cells.index((x, y, z)) for x, y, z in itertools.product(*steps)}
    return found
