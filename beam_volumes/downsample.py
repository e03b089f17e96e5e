"""Downsampling above the blocks: a cell joins the tiles of the level below and makes the next mips of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beam_volumes.block_reading import Clock
from beam_volumes.downsampling import Tile, coarse_box
from beam_volumes.errors import ConservationError
from beam_volumes.parcels import Parcel, ParcelReader, ParcelWriter
from beam_volumes.pyramid import CellKey
from beam_volumes.rendering import Counts, Rendered, make_mips, rendered, take_up, unpack_tile
from beam_volumes.runs import check_claim, telling_of_replacement
from beam_volumes.volume_plan import VolumePlan


def coarsen_cell(plan: VolumePlan, key: CellKey, parcels: Sequence[Parcel]) -> Rendered:
    """Make the mips of a cell of its tiles, or take up what an interrupted run has made of it.

    Memory: the joined tiles, one of them packed, and the mips made of them; see `pyramid.plan_pyramid`.

    Raises:
        ConservationError: a tile is missing, or came twice.
        DestinationError: the scratch folder cannot be written, or the destination has been taken over.

    """
    check_claim(plan.claim)
    box, name = plan.pyramid.cell_box(key), f"cell-{key.level}-{key.cell}.pack"
    counts = Counts(cells=1, joined=sum(len(p.pieces) for p in parcels))
    if taken := take_up(plan, name, box, counts._replace(cells_reused=1)):
        return taken
    clock = Clock()
    with telling_of_replacement(plan.claim):
        tile = _join(plan, key, parcels)
        clock.lap("read")
        with ParcelWriter(plan.claim.scratch, name, plan.inline_bytes) as out:
            make_mips(plan, key.level, tile, out, clock)
            made = out.finish({"box": box})
    return rendered(plan, made, counts.timed(clock))


def _join(plan: VolumePlan, key: CellKey, parcels: Sequence[Parcel]) -> Tile:
    """Return the tiles of a cell as one; a single packed tile is in memory at a time."""
    pyramid = plan.pyramid
    base, (mip, _) = pyramid.cell_box(key), pyramid.mips_of(key.level)
    total = pyramid.totals[mip]
    whole = coarse_box(base, total)
    state = None
    with ParcelReader(plan.claim.scratch, list(parcels)) as reader:
        expected, came = sorted(pyramid.tile_boxes(key)), sorted(reader.boxes())
        if came != expected:
            lacking = sorted(set(expected) - set(came))
            raise ConservationError(
                f"{plan.claim.url}: expected {len(expected)} tiles of mip {plan.base_mip + mip} that make up {base}, "
                f"each once, came {len(came)}; missing: {', '.join(map(str, lacking[:5])) or 'none'} "
                f"({len(lacking)} in all): give the same command again"
            )
        for box, data in reader.tiles():
            tile = unpack_tile(plan, mip, box, data)
            if state is None:
                state = np.empty((*whole.shape, tile.state.shape[3]), tile.state.dtype, order="F")
            state[tile.box.slices(whole.start)] = tile.state
    assert state is not None, "a cell has at least one tile"
    return Tile(base, total, state)
