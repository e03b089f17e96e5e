"""The pictures of runs: of what can be shown, and never what makes a complete run fail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from beam_volumes.applying import drawing
from beam_volumes.applying.picture import Panel, slice_picture
from beam_volumes.errors import DestinationError
from beam_volumes.storage import Folder
from tests.pipelines.apply_commands import SRC, Spec, bbox, code, layer, new, run, target, write_spec

COARSE = "made://image?size=64,64,4&resolution=8,8,80&chunk=16,16,4"
WHOLE: Spec = {
    "processing_chunk_sizes": [[32, 32, 4]],
    "processing_crop_pads": ...,
    "processing_blend_pads": ...,
    "processing_blend_modes": ...,
}
DEFERRED = {**WHOLE, "processing_blend_pads": [4, 4, 0], "processing_blend_modes": "defer"}
GAPS = {
    **WHOLE,
    "processing_gap": [16, 0, 0],
    "processing_chunk_sizes": [[16, 16, 4]],
    "bbox": bbox([0, 0, 0], [48, 64, 8]),
}
STRICT = {"cv_kwargs": {"fill_missing": False}}


def cases(folder: Path) -> dict[str, tuple[list[str], Spec]]:
    """Return runs, and what their pictures show."""
    dst = new(f"file://{folder}/dst")
    return {
        "all": (["src", "dst"], {}),
        "ids": (["src", "dst"], {"op_kwargs": {"src": layer(SRC.replace("image", "neurons"))}}),
        "a destination that is coarser": (
            ["src"],
            {
                **WHOLE,
                "dst": {**new(dst["path"], COARSE), "data_resolution": [8, 8, 80], "interpolation_mode": "img"},
            },
        ),
        "gaps that are not stored": (["src"], {**GAPS, "dst": {**dst, **STRICT}}),
        "a destination that has no info": (["src"], {**DEFERRED, "dst": {**dst, "@type": "build_ts_layer"}}),
        "a destination that is left to be blended": (["src"], {**DEFERRED, "dst": {**dst, **STRICT}}),
        "processors that fail": (["src"], {"dst": {**dst, "read_procs": [code("lambda data: 1 / 0")]}}),
        "processors that add an axis": (
            ["dst"],
            {
                "fn": code("lambda src: src[0]"),
                "op_kwargs": {"src": layer(SRC, read_procs=[code("lambda data: data[None]")])},
            },
        ),
        "nothing": ([], {"dst": None, "fn": code("lambda n: None"), "op_kwargs": {"n": 1}}),
    }


@pytest.mark.parametrize("case", cases(Path()))
def test_what_can_be_read_is_shown_and_all_runs_are_complete(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    titles, changes = cases(tmp_path)[case]
    changes = {"level_intermediaries_dirs": [f"file://{tmp_path}/left"], **changes}
    drawn: list[str] = []

    def noted(panels: Sequence[Panel]) -> bytes:
        drawn.extend(panel.title for panel in panels)
        return slice_picture(panels)

    monkeypatch.setattr(drawing, "slice_picture", noted)
    spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/dst", **changes))
    for asked in ("first", "again"):
        assert run(spec) == 0
        shown = capsys.readouterr()
        assert drawn == titles, asked
        assert len(list(tmp_path.rglob("slice.png"))) == ("slice.png" in shown.out) == bool(titles)
        assert len(list(tmp_path.rglob("report.json"))) == 1
        assert not list(tmp_path.rglob(".beam_volumes"))
    assert "nothing to do" in shown.err


def test_a_disk_that_has_no_room_for_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Folder.write

    def refuse(self: Folder, name: str, *args: Any, **kwargs: Any) -> None:
        if name.endswith("slice.png"):
            raise DestinationError("no room")
        write(self, name, *args, **kwargs)

    spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/dst"))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", refuse)
        assert run(spec) == 0
    assert "slice.png" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("slice.png"))
    assert not list(tmp_path.rglob(".beam_volumes"))
    assert run(spec) == 0
    assert "slice.png" in capsys.readouterr().out
    assert list(tmp_path.rglob("slice.png"))


def test_a_run_that_replaces_another_has_a_picture_of_its_own(tmp_path: Path) -> None:
    pictures = []
    for fn in ("lambda src: src", "lambda src: 255 - src"):
        spec = write_spec(tmp_path / "run.json", target(f"file://{tmp_path}/dst", fn=code(fn)))
        assert run(spec, "--overwrite") == 0
        [picture] = tmp_path.rglob("slice.png")
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
