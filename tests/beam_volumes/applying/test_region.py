"""Runs that write boxes of volumes that stand, side by side."""

import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from beam_volumes.additions import NewScales
from beam_volumes.applying import region as region_module
from beam_volumes.applying.outputs import outputs_of
from beam_volumes.applying.region import Region
from beam_volumes.errors import CorruptDataError, DestinationError, OptionError
from beam_volumes.geometry import Box
from beam_volumes.layers import VolumetricIndexTranslator, build_cv_layer, build_layer_set
from beam_volumes.precomputed.info import Json
from beam_volumes.receipts import Receipt, receipts, record
from beam_volumes.runs import Claim, check_claim, finish, inspect_destination, remove_records, take
from beam_volumes.storage import Folder
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, by_cloudvolume, new_arguments, new_layer

BOUNDS = Box.of_shape((37, 21, 11), (-5, 3, 7))
"""Chunks of 16 x 16 x 8: edges along x at -5, 11, 27 and 32."""

LEFT, RIGHT = Box((-5, 3, 7), (11, 24, 18)), Box((11, 3, 7), (32, 24, 18))
ACROSS = Box((0, 3, 7), (20, 24, 18))
PROVENANCE: Json = {"description": "", "owners": [], "processing": [{"method": {"task": "apply"}}], "sources": ["a"]}


def region(path: Path | list[Path], box: Box, **arguments: Any) -> Region:
    paths = path if isinstance(path, list) else [path]
    layers = {f"layer{i}": new_layer(p, BOUNDS, **arguments) for i, p in enumerate(paths)}
    dst = build_layer_set(layers) if isinstance(path, list) else layers["layer0"]
    return Region.planned(outputs_of(dst, RESOLUTION), box)


def inspected(destination: Region, identity: str = "a", **options: Any) -> Claim:
    options = {"resume": True, "overwrite": False, **options}
    return inspect_destination(destination, {"spec": identity}, **options)


def taken(destination: Region, identity: str = "a", **options: Any) -> Claim:
    claim = inspected(destination, identity, **options)
    take(claim)
    return claim


def ended(claim: Claim, provenance: Json = PROVENANCE) -> None:
    finish(claim, provenance, {"pipeline": "apply"})
    remove_records(claim)


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_a_run_over_a_box(tmp_path: Path) -> None:
    destination = region(tmp_path, LEFT)
    assert destination.place == f"box -5-11_3-24_7-18 of scale 4_4_40 of file://{tmp_path}"
    assert pickle.loads(pickle.dumps(destination)) == destination
    claim = inspected(destination)
    assert (claim.state, names(tmp_path)) == ("new", [])
    take(claim)
    records = ".beam_volumes/apply-4_4_40--5-11_3-24_7-18"
    note = f".beam_volumes/regions/4_4_40/-5-11_3-24_7-18.{claim.key}.json"
    assert names(tmp_path) == sorted([f"{records}/claim.json", note, "info"])
    assert inspected(region(tmp_path, LEFT)).state == "resumed"
    record(claim, Receipt(0, 3, 1, 6, 7))
    again = taken(region(tmp_path, LEFT))
    assert (again.key, receipts(again)) == (claim.key, [Receipt(0, 3, 1, 6, 7)])
    ended(again)
    report = "4_4_40/apply/-5-11_3-24_7-18/report.json"
    assert names(tmp_path) == [report, "info", "provenance"]
    assert Folder(f"file://{tmp_path}").read_json("provenance") == PROVENANCE
    assert inspected(region(tmp_path, LEFT)).state == "complete"
    assert region(tmp_path, LEFT).members[0].info is None


def test_what_stands_in_the_box_is_no_obstacle_but_another_run_is(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    layer[BOUNDS.slices()] = 9
    ended(taken(region(tmp_path, LEFT)))
    with pytest.raises(
        OptionError, match=r"--spec: box -5-11.* holds another run: spec was \"a\", now \"b\"; choose an"
    ):
        inspected(region(tmp_path, LEFT), "b")
    replaced = taken(region(tmp_path, LEFT), "b", overwrite=True)
    assert replaced.state == "replaced"
    assert not (tmp_path / replaced.report).exists()
    assert (by_cloudvolume(tmp_path) == 9).all()
    ended(replaced)
    (tmp_path / "info").unlink()
    with pytest.raises(OptionError, match=r"expected scale 4_4_40 in file:.*/info, as .* says, but it is gone: choose"):
        inspected(region(tmp_path, LEFT), "b")


def test_an_unfinished_run_is_replaced(tmp_path: Path) -> None:
    first = taken(region(tmp_path, LEFT))
    record(first, Receipt(0, 3, 1, 6, 7))
    with pytest.raises(
        OptionError, match=r"holds another run: .*finish it with its own command, or choose another box"
    ):
        inspected(region(tmp_path, LEFT), "b")
    second = taken(region(tmp_path, LEFT), "b", overwrite=True)
    with pytest.raises(DestinationError, match="another run has taken it over"):
        check_claim(first)
    assert receipts(second) == []
    assert [name for name in names(tmp_path) if "regions" in name] == [
        f".beam_volumes/regions/4_4_40/-5-11_3-24_7-18.{second.key}.json"
    ]
    third = taken(region(tmp_path, LEFT), "b", resume=False)
    assert (third.state, third.key != second.key) == ("replaced", True)


def test_runs_over_boxes_without_common_chunks_go_on_together(tmp_path: Path) -> None:
    left, right = taken(region(tmp_path, LEFT)), taken(region(tmp_path, RIGHT), "b")
    check_claim(left)
    ended(right, {**PROVENANCE, "processing": [{"method": {"task": "apply", "box": "right"}}]})
    check_claim(left)
    assert inspected(region(tmp_path, LEFT)).state == "resumed"
    ended(left)
    assert inspected(region(tmp_path, LEFT)).state == "complete"
    found = Folder(f"file://{tmp_path}").read_json("provenance")
    assert found is not None
    assert [entry["method"] for entry in found["processing"]] == [
        {"task": "apply", "box": "right"},
        {"task": "apply"},
    ]
    assert not (tmp_path / ".beam_volumes").exists()


@pytest.mark.parametrize(
    ("box", "advice"),
    [
        (ACROSS, "a box outside of -5-11_3-24_7-18"),
        # Not one voxel in common, but chunks.
        (Box((8, 3, 7), (32, 24, 18)), "the box 11-32_3-24_7-18, which is of whole ones"),
        (Box((8, 4, 7), (10, 24, 18)), "a box outside of -5-11_3-24_7-18"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_over_chunks_of_an_unfinished_one_is_refused(
    tmp_path: Path, box: Box, advice: str, overwrite: bool
) -> None:
    first = Box((-5, 3, 7), (8, 24, 18))
    claim = taken(region(tmp_path, first))
    before = names(tmp_path)
    message = (
        r"--spec: box .* of scale 4_4_40 of file://.*: expected no other unfinished run that writes to its chunks of "
        r"\[16, 16, 8\] voxels, came one of box -5-8_3-24_7-18, whose claim is "
        rf"file://{tmp_path}/.beam_volumes/apply-4_4_40--5-8_3-24_7-18/claim.json: .* or use {re.escape(advice)}$"
    )
    with pytest.raises(OptionError, match=message):
        inspected(region(tmp_path, box), "b", overwrite=overwrite)
    assert names(tmp_path) == before
    ended(claim)
    meets = bool(box.intersection(first).voxels)
    assert taken(region(tmp_path, box), "b", overwrite=meets).state == ("replaced" if meets else "new")


def test_a_run_that_is_given_up_is_in_nobodys_way(tmp_path: Path) -> None:
    claim = taken(region(tmp_path, LEFT))
    (tmp_path / claim.records / "claim.json").unlink()
    assert taken(region(tmp_path, ACROSS), "b").state == "new"


def test_other_scales_and_other_volumes_have_nothing_in_common(tmp_path: Path) -> None:
    taken(region(tmp_path / "a", ACROSS))
    taken(region(tmp_path / "b", ACROSS), "b")
    both = [(4, 4, 40), (8, 8, 40)]
    fine = build_cv_layer(**new_arguments(tmp_path / "c", BOUNDS, info_scales=both, info_bbox=None) | bounds_nm())
    taken(Region.planned(outputs_of(fine, (4, 4, 40)), Box((0, 0, 0), (20, 20, 8))))
    taken(Region.planned(outputs_of(fine, (8, 8, 40)), Box((0, 0, 0), (10, 10, 8))), "b")


def bounds_nm() -> dict[str, Any]:
    layer = new_layer("/nowhere", Box.of_shape((64, 64, 16)))
    return {"info_bbox": layer.backend.get_bounds(RESOLUTION).bbox}


def test_boxes_are_those_that_are_stored(tmp_path: Path) -> None:
    moved = new_layer(tmp_path, BOUNDS, index_procs=[VolumetricIndexTranslator((-11, 0, 0), RESOLUTION)])
    destination = Region.planned(outputs_of(moved, RESOLUTION), Box((6, 0, 7), (22, 30, 30)))
    assert destination.members[0].box == LEFT
    taken(destination)
    with pytest.raises(OptionError, match="came one of box -5-11_3-24_7-18"):
        inspected(region(tmp_path, ACROSS))
    assert inspected(region(tmp_path, RIGHT)).state == "new"
    with pytest.raises(OptionError, match="expected a box with voxels of scale 4_4_40, which has 6,3,7,43,24,18, came"):
        Region.planned(outputs_of(moved, RESOLUTION), Box((0, 0, 0), (6, 9, 9)))


def test_a_layer_set_is_claimed_in_each_volume(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    both = taken(region(paths, LEFT))
    assert both.place == f"box -5-11_3-24_7-18 of scale 4_4_40 of file://{tmp_path}/one and 1 other"
    for path in paths:
        for box in (ACROSS, LEFT):
            if (path, box) != (paths[0], LEFT):
                with pytest.raises(
                    OptionError, match=r"came one of box -5-11_3-24_7-18, whose claim is .*/one/.beam_vol"
                ):
                    inspected(region(path, box), "b", overwrite=True)
    with pytest.raises(OptionError, match="came one of box -5-11_3-24_7-18"):
        inspected(region([tmp_path / "three", paths[1]], ACROSS), "b")
    assert inspected(region(paths, LEFT)).state == "resumed"
    side = taken(region(paths[1], RIGHT), "b")
    ended(both)
    check_claim(side)
    for path in paths:
        assert Folder(f"file://{path}").read_json("provenance") == PROVENANCE
    assert names(paths[0]) == ["4_4_40/apply/-5-11_3-24_7-18/report.json", "info", "provenance"]
    assert taken(region(paths[1], LEFT), "b").state == "new"


def test_replacing_a_run_with_more_layers_frees_those_that_are_left(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    taken(region(paths, LEFT))
    taken(region(paths[0], LEFT), "b", overwrite=True)
    assert taken(region(paths[1], ACROSS), "c").state == "new"


@pytest.mark.parametrize("turn", range(6))
def test_of_runs_that_begin_at_once_one_goes_on(tmp_path: Path, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn has other keys, and another order of steps."""
    monkeypatch.setattr(region_module, "_PATIENCE_SECONDS", 0.5)
    boxes = [Box((x, 3, 7), (x + 12, 24, 18)) for x in (-5, 0, 5, 11)]
    claims = [inspected(region(tmp_path, box), str(i)) for i, box in enumerate(boxes)]
    barrier = Barrier(len(claims))

    def attempt(claim: Claim) -> str:
        barrier.wait()
        try:
            take(claim)
        except DestinationError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(claims)) as pool:
        ends = list(pool.map(attempt, claims))
    # The first and the last alone have no chunk in common.
    first, *middle, last = (not end for end in ends)
    assert sum([first or last, *middle]) == 1, ends
    for claim, end in zip(claims, ends, strict=True):
        if end:
            assert "expected no other unfinished run that writes to its chunks" in end
            assert not (tmp_path / claim.records / "claim.json").exists()
        else:
            check_claim(claim)


def test_a_run_that_began_before_does_not_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its key: it has looked already, and this run has not been there."""
    monkeypatch.setattr(region_module, "_PATIENCE_SECONDS", 0.3)
    late = inspected(region(tmp_path, ACROSS), "b")
    early = taken(region(tmp_path, LEFT))
    for key in ("0" * 32, "f" * 32):
        with pytest.raises(DestinationError, match="came one of box -5-11_3-24_7-18"):
            take(Claim(late.destination, late.identity, key, "new", late.scratch))
        assert not (tmp_path / late.records).exists()
        assert [name for name in names(tmp_path) if "regions" in name and early.key not in name] == []
    check_claim(early)


def test_what_a_resumed_run_has_done_stays_when_it_is_refused(tmp_path: Path) -> None:
    claim = taken(region(tmp_path, LEFT))
    record(claim, Receipt(0, 3, 1, 6, 7))
    destination = region(tmp_path, LEFT)
    resumed = inspected(destination)
    Folder(claim.url).write(".beam_volumes/claim.json", b'{"key": "export", "identity": {}}')
    with pytest.raises(OptionError, match=r"the export of .* is not finished"):
        take(resumed)
    Folder(claim.url).delete([".beam_volumes/claim.json"])
    assert receipts(taken(region(tmp_path, LEFT))) == [Receipt(0, 3, 1, 6, 7)]


def test_a_volume_whose_export_is_not_finished_is_refused(tmp_path: Path) -> None:
    Folder(f"file://{tmp_path}").write(".beam_volumes/claim.json", b'{"key": "a", "identity": {}}')
    with pytest.raises(OptionError, match=r"--spec: expected a complete volume, but the export of .* is not finished"):
        inspected(region(tmp_path, LEFT), overwrite=True)


def test_an_info_is_written_once_and_never_over_a_change(tmp_path: Path) -> None:
    planned = region(tmp_path, LEFT)
    same = region(tmp_path, RIGHT)
    taken(planned)
    written = (tmp_path / "info").stat()
    # The second was planned when there was none.
    taken(same, "b")
    assert (tmp_path / "info").stat() == written
    more = region(tmp_path / "more", LEFT)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "info").write_text('{"scales": []}')
    with pytest.raises(
        DestinationError, match="/more/info: expected the one that stood there when the run was planned"
    ):
        taken(more)
    assert os.listdir(tmp_path / "more") == ["info"]
    assert json.loads((tmp_path / "more" / "info").read_text()) == {"scales": []}


def test_scales_are_added_to_a_volume_that_stands(tmp_path: Path) -> None:
    new_layer(tmp_path, BOUNDS).backend.write_info()
    layer = new_layer(tmp_path, BOUNDS, info_scales=[(4, 4, 40), (2, 2, 40)])
    taken(Region.planned(outputs_of(layer, (2, 2, 40)), Box((0, 10, 10), (16, 20, 12))))
    assert [scale["key"] for scale in json.loads((tmp_path / "info").read_text())["scales"]] == ["2_2_40", "4_4_40"]


def test_a_scale_that_is_removed_takes_the_claims_with_it(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, Box.of_shape((32, 32, 8)), info_scales=[(4, 4, 40), (8, 8, 40)])
    claim = taken(Region.planned(outputs_of(layer, (8, 8, 40)), Box.of_shape((16, 16, 8))))
    coarser = {**layer.backend.volume.scale(1), "encoding": "raw"}
    downsampling = NewScales.planned(claim.url, 0, [coarser])
    options: dict[str, Any] = {"resume": True, "overwrite": True}
    take(inspect_destination(downsampling, {"mip": 0}, **options))
    with pytest.raises(DestinationError, match="expected this run's claim on the destination, but it is gone"):
        check_claim(claim)


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    Folder(f"file://{tmp_path}").write(
        ".beam_volumes/regions/4_4_40/0-1_0-1_0-1.abc.json", b'{"url": 5, "records": "a"}'
    )
    with pytest.raises(CorruptDataError, match=r"0-1_0-1_0-1.abc.json: expected url and records of a run, came"):
        inspected(region(tmp_path, LEFT))
    Folder(f"file://{tmp_path}").write(
        ".beam_volumes/regions/4_4_40/0-1_0-1_0-1.abc.json", b'{"url": "x", "records": "/"}'
    )
    with pytest.raises(CorruptDataError, match="expected url and records of a run"):
        inspected(region(tmp_path, LEFT))


def test_a_scale_that_stands_elsewhere_is_refused(tmp_path: Path) -> None:
    layer = new_layer(tmp_path, BOUNDS)
    info = layer.backend.volume.info
    layer.backend.settle({**info, "scales": [{**info["scales"][0], "key": "../other"}]})
    with pytest.raises(OptionError, match=r"expected a scale that stands in file://.*, came ../other"):
        inspected(Region.planned(outputs_of(layer, RESOLUTION), LEFT))


def test_a_run_that_writes_no_volume(tmp_path: Path) -> None:
    destination = Region.planned((), Box.of_shape((1, 1, 1)), str(tmp_path))
    assert (destination.place, destination.report) == (f"file://{tmp_path}", "report.json")
    claim = taken(destination)
    assert names(tmp_path) == [".beam_volumes/apply/claim.json"]
    assert inspected(destination).state == "resumed"
    ended(claim)
    assert names(tmp_path) == ["report.json"]
    assert inspected(destination).state == "complete"
    assert taken(destination, "b", overwrite=True).state == "replaced"
    with pytest.raises(OptionError, match="dst: expected a layer, or level_intermediaries_dirs with a folder"):
        Region.planned((), Box.of_shape((1, 1, 1)))


def test_chunks_that_runs_share_keep_the_voxels_of_both(tmp_path: Path) -> None:
    """One after the other: the second reads what the first has written, and keeps it."""
    expected = np.zeros((1, *BOUNDS.shape), "uint8")
    for value, box in ((1, Box((-5, 3, 7), (4, 24, 18))), (2, Box((4, 3, 7), (32, 24, 18)))):
        outputs = outputs_of(new_layer(tmp_path, BOUNDS), RESOLUTION)
        claim = taken(Region.planned(outputs, box), str(value))
        outputs[0].write(box, np.full((1, *box.shape), value, "uint8"))
        expected[(slice(None), *box.slices(BOUNDS.start))] = value
        ended(claim)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path), expected)


def test_voxels_of_a_complete_run_are_replaced_only_when_asked_for(tmp_path: Path) -> None:
    ended(taken(region(tmp_path, LEFT)))
    ended(taken(region(tmp_path, RIGHT)))
    with pytest.raises(
        OptionError, match=r"expected no voxels of other runs in box 0-20_3-24_7-18 .*came those of box -5-11"
    ):
        inspected(region(tmp_path, ACROSS), "b")
    claim = taken(region(tmp_path, ACROSS), "b", overwrite=True)
    assert not [name for name in names(tmp_path) if name.endswith("report.json")]
    assert inspected(region(tmp_path, ACROSS), "b").state == "resumed"
    ended(claim)
    # Of what has been written over, nothing says any more that it is complete.
    with pytest.raises(OptionError, match="came those of box 0-20_3-24_7-18: choose another box"):
        inspected(region(tmp_path, LEFT))
    assert inspected(region(tmp_path, ACROSS), "b").state == "complete"
