"""The algorithms of a pyramid, without Beam: regions, cells level by level, shards; against the whole in one piece."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from cloudvolume import CloudVolume
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from beam_volumes import reading_plan, source_worker
from beam_volumes.codecs import DATA_TYPES, Array
from beam_volumes.destinations import NewVolume
from beam_volumes.downsample import coarsen_cell
from beam_volumes.downsampling import Downsampler, coarse_box, downsample
from beam_volumes.errors import ConservationError, CorruptDataError, OptionError
from beam_volumes.export import render_region
from beam_volumes.export_planning import bounds_in
from beam_volumes.geometry import Box, Vec
from beam_volumes.parcels import Parcel
from beam_volumes.precomputed.info import chunk_name, volume_info
from beam_volumes.provenance import Launch
from beam_volumes.pyramid import CellKey, total_factors
from beam_volumes.receipts import Receipt
from beam_volumes.rendering import Counts, Rendered, merge_counts
from beam_volumes.runs import inspect_destination, take
from beam_volumes.scale_files import shard_file
from beam_volumes.scale_planning import plan_pyramid_of, plan_scale, plan_target
from beam_volumes.shard_assembly import assemble_shard, finished_shards
from beam_volumes.sources import describe_source, open_reader
from beam_volumes.storage import Folder
from beam_volumes.targets import ShardKey
from beam_volumes.testing.array_source import ArrayReader, source_of
from beam_volumes.volume_plan import VolumePlan, finished_bits

METHODS = [("mode", False), ("mode", True), ("average", False), ("min", False), ("max", False), ("stride", False)]


class Case(NamedTuple):
    """A volume, and how its mips are made.

    Where `base_written` is false only the coarser ones are; `fewest_voxels` are those of a region.
    """

    array: Array
    offset: Vec
    stored: Vec
    chunk: Vec
    factors: tuple[Vec, ...]
    method: tuple[str, bool]
    memory: int
    translate: Vec = (0, 0, 0)
    bounds: Box | None = None
    sharded: bool = True
    inline_bytes: int = 0
    fewest_voxels: int = 500
    base_written: bool = True

    @property
    def expected(self) -> list[Array]:
        """Every mip, each made in one piece: of the mip before it, averages of mip 0."""
        start = self.bounds.start if self.bounds else self.offset
        voxels = self.array[self.bounds.slices(self.offset)] if self.bounds else self.array
        x, y, z = (s + t for s, t in zip(start, self.translate, strict=True))
        base, mips = Box.of_shape(voxels.shape[:3], (x, y, z)), [voxels]
        totals = total_factors(self.factors)
        for before, total, factor in zip(totals, totals[1:], self.factors, strict=False):
            if self.method[0] == "average":
                mips.append(downsample(voxels, base.start, total, "average"))
            else:
                mips.append(downsample(mips[-1], coarse_box(base, before).start, factor, *self.method))
        return mips


def plan_of(case: Case, url: str) -> VolumePlan:
    source = source_of(case.array, case.offset, case.stored)
    box = bounds_in(source, case.bounds).translated(case.translate)
    scales = [plan_scale(source, box, case.chunk, "raw", total) for total in total_factors(case.factors)]
    downsampler = Downsampler(case.method[0], source.data_type, case.method[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_plan, "_STORED", reading_plan._Sizes(64, case.fewest_voxels, 2**26))
        memory, written = case.memory, case.base_written
        pyramid = plan_pyramid_of(source, scales, case.factors, downsampler, memory, case.translate, written)
    targets = [
        plan_target(url, scale, "gzip", sharded=case.sharded, memory_target=memory, mip=mip)
        for mip, scale in enumerate(scales)
    ]
    destination = NewVolume(url, volume_info(source.info, "segmentation", [t.scale for t in targets], clean=True))
    claim = inspect_destination(destination, {"source": "array"}, resume=True, overwrite=False)
    made = tuple(targets if written else targets[1:])
    return VolumePlan(
        claim=claim,
        source=source,
        server=None,
        targets=made,
        translate=case.translate,
        base_mip=0,
        pyramid=pyramid,
        fill_missing=False,
        lookahead_bytes=0,
        inline_bytes=case.inline_bytes,
        launch=Launch("me", {}),
        finished=finished_bits(made, finished_shards(claim, made)),
    )


@dataclass
class Work:
    """Regions and cells that are done, what they made, and who made what for whom."""

    shards: dict[ShardKey, list[Parcel]] = field(default_factory=lambda: defaultdict(list))
    tiles: dict[CellKey, list[Parcel]] = field(default_factory=lambda: defaultdict(list))
    made: dict[int | CellKey, Rendered] = field(default_factory=dict)

    def take(self, maker: int | CellKey, rendered: Rendered) -> None:
        self.made[maker] = rendered
        for key, parcel in rendered.parcels.items():
            self.shards[key].append(parcel)
        for cell, parcel in rendered.tiles.items():
            self.tiles[cell].append(parcel)

    @property
    def counts(self) -> Counts:
        return merge_counts(rendered.counts for rendered in self.made.values())


def work(plan: VolumePlan, seed: int = 0) -> Work:
    """Do what a run does but for writing shards; another `seed` is another order of all work."""
    order, done = random.Random(seed), Work()
    take(plan.claim)
    regions = [region for region in range(len(plan.reading.regions)) if plan.needs_region(region)]
    for region in shuffled(order, regions):
        done.take(region, render_region(plan, region))
    for level in range(1, len(plan.pyramid.levels) + 1):
        for key in shuffled(order, [key for key in done.tiles if key.level == level]):
            done.take(key, coarsen_cell(plan, key, shuffled(order, done.tiles[key])))
    for key, parcels in done.shards.items():
        done.shards[key] = shuffled(order, parcels)
    return done


def assemble(plan: VolumePlan, shards: dict[ShardKey, list[Parcel]]) -> dict[ShardKey, Receipt]:
    targets = {target.mip: target for target in plan.targets}
    return {key: assemble_shard(plan.claim, targets[key.mip], key.shard, p).receipt for key, p in shards.items()}


def shuffled(order: random.Random, items: Iterable[Any]) -> list[Any]:
    found = list(items)
    order.shuffle(found)
    return found


@contextmanager
def reading(array: Array, offset: Vec) -> Iterator[ArrayReader]:
    """Let regions be read from an array."""
    reader = ArrayReader(array, offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_worker, "open_reader", lambda *_, **__: reader)
        yield reader


def commit(plan: VolumePlan) -> None:
    """Write info, as the end of a run does."""
    plan.claim.destination.commit({})


def read_back(url: str, mip: int) -> Array:
    source = describe_source(url, mip)
    return open_reader(source, fill_missing=False).read(source.box)[0]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def vec(low: int, high: int) -> Vec:
        return draw(st.tuples(*[st.integers(low, high)] * 3))

    shape, offset, channels = vec(1, 40), vec(-30, 30), draw(st.integers(1, 2))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = np.asfortranarray(values.integers(0, 9, (*shape, channels)).astype(draw(st.sampled_from(DATA_TYPES))))
    low = draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    high = draw(st.tuples(*[st.integers(a + 1, n) for a, n in zip(low, shape, strict=True)]))
    bounds = draw(st.sampled_from([None, Box(low, high).translated(offset)]))
    translate = draw(st.sampled_from([(0, 0, 0), vec(-9, 9)]))
    # Chunks of a power of two are the rule; with others, lattices seldom meet.
    sides = st.sampled_from([4, 8, 8, 16]) if draw(st.booleans()) else st.integers(3, 17)
    stored, chunk = draw(st.tuples(sides, sides, sides)), draw(st.tuples(sides, sides, sides))
    start = (bounds or Box.of_shape(shape, offset)).translated(translate)
    factors: list[Vec] = []
    for factor in draw(st.lists(st.sampled_from([(2, 2, 1), (2, 2, 2), vec(1, 3)]), min_size=1, max_size=6)):
        if coarse_box(start, factor).shape == start.shape:
            break
        factors.append(factor)
        start = coarse_box(start, factor)
    return Case(
        array,
        offset,
        stored,
        chunk,
        tuple(factors),
        draw(st.sampled_from(METHODS)),
        2 ** draw(st.integers(13, 19)),
        translate,
        bounds,
        draw(st.booleans()),
        draw(st.sampled_from([0, 3000, 10**9])),
        draw(st.sampled_from([100, 2000, 10**5])),
        not factors or draw(st.booleans()),
    )


def planned(case: Case, url: str) -> VolumePlan:
    """Plan a case that fits its memory."""
    try:
        plan = plan_of(case, url)
    except OptionError:
        assume(False)
        raise
    assume(sum(len(target.chunks) for target in plan.targets) < 800)
    assume(len(plan.reading.regions) < 100)
    return plan


@given(cases(), st.integers(0, 9))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_any_pyramid_equals_that_of_the_whole(case: Case, seed: int) -> None:
    with TemporaryDirectory() as folder, reading(case.array, case.offset) as reader:
        url = f"file://{folder}/seg"
        plan = planned(case, url)
        event(f"{len(plan.pyramid.levels)} levels, {plan.pyramid.block_mips > 0} mips of blocks")
        done = work(plan, seed)
        assert reader.voxels_read == plan.reading.regions.bounds.voxels, "each voxel is read once"
        assert done.shards.keys() == {ShardKey(t.mip, n) for t in plan.targets for n in t.shards.numbers()}
        assert sum(isinstance(maker, CellKey) for maker in done.made) == plan.planned["cells"]
        assert done.counts.joined == done.counts.tiles
        assemble(plan, done.shards)
        commit(plan)
        for target in plan.targets:
            expected, came = case.expected[target.mip], read_back(url, target.mip)
            assert (came.dtype, came.shape) == (expected.dtype, expected.shape)
            assert came.tobytes("F") == expected.tobytes("F"), f"mip {target.mip}"


@given(cases(), st.data())
@settings(derandomize=True, deadline=None, max_examples=30)
def test_exactly_what_missing_shards_need_is_done_again(case: Case, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder, reading(case.array, case.offset) as reader:
        url = f"file://{folder}/seg"
        first = planned(case, url)
        done = work(first)
        receipts = assemble(first, done.shards)
        order = random.Random(data.draw(st.integers(0, 2**32)))
        missing = set(order.sample(sorted(receipts), data.draw(st.integers(1, len(receipts)))))
        for key in missing:
            lose(first, key)
        scratch = Folder(first.claim.scratch)
        if data.draw(st.booleans()):
            scratch.delete_folder("")
        read_before = reader.voxels_read

        second = plan_of(case, url)
        regions = {region for region in range(len(second.reading.regions)) if second.needs_region(region)}
        cells = {key for key in all_cells(second) if second.needs_cell(key)}
        assert regions | cells == needed_by(missing, done)
        assert second.planned["shards"] == len(missing)
        again = work(second, 1)
        assert again.made.keys() == regions | cells
        assert again.shards.keys() == missing
        reused = again.counts.reused + again.counts.cells_reused
        if reused == len(again.made):
            assert reader.voxels_read == read_before
        for maker, rendered in again.made.items():
            assert_some_of(rendered, done.made[maker])
        assert assemble(second, again.shards) == {key: receipts[key] for key in missing}


def all_cells(plan: VolumePlan) -> list[CellKey]:
    levels = enumerate(plan.pyramid.levels, 1)
    return [CellKey(number, cell) for number, level in levels for cell in range(len(level.cells))]


def needed_by(shards: set[ShardKey], done: Work) -> set[int | CellKey]:
    """Return who made something for `shards`, for those who did, and so on."""
    needed: set[int | CellKey] = set()
    # From the top: cells come after all that they take from.
    for maker, made in reversed(done.made.items()):
        if shards & made.parcels.keys() or needed & made.tiles.keys():
            needed.add(maker)
    return needed


def assert_some_of(came: Rendered, before: Rendered) -> None:
    """Nothing but what was made before, piece by piece."""
    found: list[tuple[Parcel, Parcel]] = [(parcel, before.parcels[key]) for key, parcel in came.parcels.items()]
    found += [(parcel, before.tiles[cell]) for cell, parcel in came.tiles.items()]
    for parcel, expected in found:
        for name in ("stream", "number", "chunk", "start", "stop", "length", "crc32c"):
            np.testing.assert_array_equal(parcel.pieces[name], expected.pieces[name])


def lose(plan: VolumePlan, key: ShardKey) -> None:
    """Delete the file of a shard, or that of one of its chunks."""
    target = next(target for target in plan.targets if target.mip == key.mip)
    root = Path(target.url.removeprefix("file://"))
    if target.scale.sharding:
        (root / shard_file(target, target.scale.sharding, key.shard)).unlink()
        return
    position = next(iter(target.shards.chunk_positions(key.shard)))
    (found,) = root.glob(f"{target.scale.key}/{chunk_name(target.chunks.box(position))}*")
    found.unlink()


@pytest.fixture
def case() -> Case:
    array = np.random.default_rng(7).integers(0, 5, (61, 50, 21, 1)).astype(np.uint64)
    factors: tuple[Vec, ...] = ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    return Case(np.asfortranarray(array), (3, -6, 7), (8, 8, 8), (4, 4, 4), factors, ("mode", False), 2**18)


def test_cloudvolume_reads_every_mip(case: Case, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/seg"
    plan = plan_of(case, url)
    assert len(plan.pyramid.levels) >= 2
    with reading(case.array, case.offset):
        assemble(plan, work(plan).shards)
    commit(plan)
    for mip, expected in enumerate(case.expected):
        volume = CloudVolume(url, mip=mip, progress=False)
        np.testing.assert_array_equal(np.asarray(volume[volume.bounds]), expected)


def test_packs_are_taken_up_and_give_the_same(case: Case, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/seg"
    with reading(case.array, case.offset) as reader:
        first = work(plan_of(case, url))
        read = reader.voxels_read
        second = work(plan_of(case, url), 1)
    assert reader.voxels_read == read
    assert (second.counts.reused, second.counts.cells_reused) == (first.counts.regions, first.counts.cells)
    assert second.counts.cells > 1
    for maker, made in first.made.items():
        assert (second.made[maker].parcels, second.made[maker].tiles) == (made.parcels, made.tiles)


def test_a_cell_refuses_tiles_that_are_not_its_own(case: Case, tmp_path: Path) -> None:
    plan = plan_of(case, f"file://{tmp_path}/seg")
    with reading(case.array, case.offset):
        done = work(plan)
    for level in range(1, len(plan.pyramid.levels) + 1):
        key = next(key for key in done.tiles if key.level == level)
        tiles = done.tiles[key]
        boxes = list(plan.pyramid.tile_boxes(key))
        mip = plan.pyramid.mips_of(level)[0]
        other = next(tiles[0] for k, tiles in done.tiles.items() if k != key)
        Folder(plan.claim.scratch).delete([f"cell-{key.level}-{key.cell}.pack"])
        lost = len(boxes) - len(tiles[0].pieces)
        message = f"expected {len(boxes)} tiles of mip {mip} that make up {plan.pyramid.cell_box(key)}, each once, came"
        own, foreign = len(tiles[0].pieces), len(other.pieces)
        missing = rf"missing: {min(boxes_of(tiles[0]))}.* \({own} in all\): give the same command again"
        with pytest.raises(ConservationError, match=rf"{message} {lost}; {missing}"):
            coarsen_cell(plan, key, tiles[1:])
        with pytest.raises(ConservationError, match=rf"{message} {lost + foreign}; {missing}"):
            coarsen_cell(plan, key, [*tiles[1:], other])
        with pytest.raises(ConservationError, match=rf"{message} {len(boxes) + own}; missing: none \(0 in all\)"):
            coarsen_cell(plan, key, [*tiles, tiles[0]])
        with pytest.raises(ConservationError, match=rf"{message} {len(boxes) + foreign}; missing: none"):
            coarsen_cell(plan, key, [*tiles, other])
        assert coarsen_cell(plan, key, tiles).parcels == done.made[key].parcels


def boxes_of(parcel: Parcel) -> list[Box]:
    return [Box(tuple(p["start"].tolist()), tuple(p["stop"].tolist())) for p in parcel.pieces]


def test_a_tile_that_was_damaged_is_named(case: Case, tmp_path: Path) -> None:
    plan = plan_of(case._replace(inline_bytes=10**9), f"file://{tmp_path}/seg")
    with reading(case.array, case.offset):
        done = work(plan)
    key, tiles = next(iter(done.tiles.items()))
    damaged = tiles[0]._replace(data=b"x" + tiles[0].data[1:])
    with pytest.raises(CorruptDataError, match="a parcel that travelled inline"):
        coarsen_cell(plan, key, [damaged, *tiles[1:]])
