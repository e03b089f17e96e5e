"""Specs and options that cannot work: each fault is told with what to do, exit status 2, and nothing is written."""

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from beam_volumes.storage import https
from pipelines.apply import main
from tests.pipelines.apply_commands import (
    OPS,
    RESOLUTION,
    SEGMENTATION,
    SRC,
    bbox,
    code,
    layer,
    new,
    op,
    run,
    target,
    write_spec,
)
from tests.pipelines.conftest import check_refusal, only_error, rows_of, tree

CORNERS = {"start_coord": [0, 0, 0], "end_coord": [64, 64, 8], "coord_resolution": RESOLUTION}

FIRST_FITS = {
    "bbox": bbox([1, 1, 0], [49, 49, 8]),
    "expand_bbox_processing": False,
    "op_kwargs": {
        "src": layer(SRC),
        "m": layer(
            "made://image?size=16,16,8&resolution=32,32,40&chunk=16,16,4",
            data_resolution=[32, 32, 40],
            interpolation_mode="img",
        ),
    },
    "fn": code("lambda src, m: src"),
}
"""One input has voxels of 4 x 4 of the destination, and the first chunk, with its crop from 0 on, is of such."""

FLOWS: dict[str, tuple[dict[str, Any], str]] = {
    "lower chunks do not divide": (
        {"processing_chunk_sizes": [[32, 32, 4], [15, 16, 4]]},
        r"^error: processing_chunk_sizes\[1\]: .* divide \[48, 48, 4\].* use \[12, 16, 4\] or \[16, 16, 4\]; or keep .*"
        r"auto_divisibility: true processing_chunk_sizes become \[\[29, 32, 4\], \[15, 16, 4\]\]$",
    ),
    "top chunks do not divide": (
        {"processing_chunk_sizes": [[48, 32, 4], [16, 16, 4]], "expand_bbox_processing": False},
        r"processing_chunk_sizes\[0\]: .* divide the bounding box of \[64, 64, 8\].* use \[32, 32, 4\] or "
        r"\[64, 32, 4\], or use the bounding box \[0, 0, 0\] - \[96, 64, 8\], or set expand_bbox_processing: true",
    ),
    "blend of more than half a chunk": (
        {"processing_blend_pads": [[8, 8, 0], [12, 4, 0]]},
        r"processing_blend_pads\[1\]: expected at most half of the chunk \[16, 16, 4\], came \[12, 4, 0\]: "
        r"use \[8, 4, 0\]",
    ),
    "no size": ({"processing_chunk_sizes": []}, r"processing_chunk_sizes: expected at least one size, came none"),
    "one size": (
        {"processing_chunk_sizes": [32, 32, 4], "processing_crop_pads": [0, 0, 0], "processing_blend_pads": [0, 0, 0]},
        r"processing_chunk_sizes: .* came one size: use \[\[32, 32, 4\]\]",
    ),
    "sizes of two": (
        {"processing_chunk_sizes": [[32, 32], [16, 16, 4]]},
        r"processing_chunk_sizes\[0\]: expected three whole numbers, each at least 1, came \[32, 32\]",
    ),
    "negative pads": (
        {"processing_crop_pads": [[0, 0, 0], [-2, 2, 0]]},
        r"processing_crop_pads\[1\]: .* at least 0, came \[-2, 2, 0\]",
    ),
    "pads of too few levels": (
        {"processing_blend_pads": [[8, 8, 0]]},
        r"processing_blend_pads: expected 2 pads, as many as .* or one alone, outside of a list, .* came 1",
    ),
    "unknown mode": (
        {"processing_blend_modes": ["linear", "cubic"]},
        r"processing_blend_modes: expected modes out of linear, quadratic, bump, max, defer, came 'cubic'",
    ),
    "defer below the top": (
        {"processing_blend_modes": ["linear", "defer"]},
        r"processing_blend_modes\[1\]: expected one of linear, quadratic, bump, max below the top level, came 'defer'",
    ),
    "weights for ids": (
        {
            "op_kwargs": {"src": layer(SEGMENTATION)},
            "dst": "segmentation",
            "processing_blend_pads": [[8, 8, 0], [0, 0, 0]],
        },
        r"processing_blend_pads\[0\]: expected no blend for .* use \[0, 0, 0\] and a larger crop_pad, or "
        r"mode max",
    ),
    "backend and processing": (
        {"expand_bbox_backend": True},
        r"expand_bbox_backend, expand_bbox_processing: .* came both: set expand_bbox_processing: false",
    ),
    "shrink and processing": (
        {"shrink_processing_chunk": True},
        r"shrink_processing_chunk, expand_bbox_processing: .* set expand_bbox_processing: false",
    ),
    "divisibility without processing": (
        {"auto_divisibility": True, "expand_bbox_processing": False},
        r"auto_divisibility: expected expand_bbox_processing: true along with it, .* set it true",
    ),
    "gap with blend": (
        {"processing_gap": [4, 0, 0]},
        r"processing_gap, processing_blend_pads\[0\]: .* came \[8, 8, 0\]: use \[0, 0, 0\]",
    ),
    "skipped with blend": (
        {"skip_intermediaries": True, "processing_blend_pads": [[0, 0, 0], [4, 4, 0]]},
        r"skip_intermediaries, processing_blend_pads\[1\]: .* set skip_intermediaries: false, or use \[0, 0, 0\]",
    ),
    "folders of too many levels": (
        {"level_intermediaries_dirs": ["a", "b", "c"]},
        r"level_intermediaries_dirs: expected 2 folders, .* came 3",
    ),
    "defer without a folder": (
        {"processing_blend_modes": ["defer", "linear"]},
        r"level_intermediaries_dirs: expected a folder where the chunks of mode defer are left, came none: give one",
    ),
    "no output and no folder": (
        {"dst": None, "processing_blend_pads": [0, 0, 0]},
        r"dst: expected a layer, or level_intermediaries_dirs with a folder .* came neither: give one",
    ),
    "no dst": ({"dst": ...}, r"dst: expected the layer that is written, or null for none, but not given: name one"),
    "no dst_resolution": ({"dst_resolution": ...}, r"dst_resolution: expected, but not given: say at which resolution"),
    "no box": ({"bbox": ...}, r"bbox: expected, but not given: give bbox, or start_coord, .* or auto_bbox: true"),
    "no function": ({"fn": ...}, r"fn, op: expected one of them, came neither"),
    "function and operation": (
        {"op": {"@type": "VolumetricCallableOperation", "fn": code()}},
        r"fn, op: expected one of them, came both: leave one out",
    ),
    "two boxes": (CORNERS, r"bbox, start_coord, end_coord, coord_resolution: expected one way .* leave the others out"),
    "half a box": (
        {"bbox": ..., "start_coord": [0, 0, 0]},
        r"end_coord, coord_resolution: expected along with start_coord, but not given",
    ),
    "a box that is none": (
        {"bbox": [0, 0, 0]},
        r"bbox: expected a box, such as .*BBox3D.from_coords.*, came \[0, 0, 0\]",
    ),
    "auto_bbox without dst": (
        {"bbox": ..., "auto_bbox": True, "dst": None},
        r"auto_bbox: expected a destination, whose bounds are meant, came dst: null: leave auto_bbox out",
    ),
    "half voxels": (
        {"bbox": bbox([1, 0, 0], [63, 64, 8], [4, 8, 40])},
        r"expected whole voxels .* came \(0\.5, 0, 0\) - \(31\.5, 64, 8\): use \[0, 0, 0\] - \[32, 64, 8\], or set "
        r"expand_bbox_resolution: true",
    ),
    "empty box": ({"bbox": bbox([0, 0, 0], [0, 64, 8])}, r"bbox: |end_coord"),
    "box beyond dst": (
        {"bbox": bbox([640, 0, 0], [704, 64, 8])},
        r"dst, .*: expected a box with voxels of scale 8_8_40, which has 0,0,0,64,64,8, came 640,0,0,704,64,8: give",
    ),
    "resolution that dst has not": (
        {"dst_resolution": [16, 16, 40]},
        r"dst, .*/volume: expected one of its resolutions, \(8, 8, 40\), came \(16, 16, 40\)",
    ),
    "resolution that src has not": (
        {"op_kwargs": {"src": layer(SRC, data_resolution=[16, 16, 40], interpolation_mode="img")}},
        r"op_kwargs\.src: .*: expected one of its resolutions, \(8, 8, 40\), came \(16, 16, 40\)",
    ),
    "chunks that are no multiple of coarser voxels": (
        {
            **FIRST_FITS,
            "processing_chunk_sizes": [[6, 6, 4]],
            "processing_crop_pads": [[1, 1, 0]],
            "processing_blend_pads": [0, 0, 0],
        },
        r"processing_chunk_sizes: expected sizes with which all chunks .* each input, came \[\[6, 6, 4\]\], .* that "
        r"begins 6 voxels further along x: choose sizes, and pads, .* as op_kwargs\.m: .*expected whole voxels",
    ),
    "lower chunks that are no multiple of coarser voxels": (
        {
            **FIRST_FITS,
            "processing_chunk_sizes": [[24, 24, 4], [6, 6, 4]],
            "processing_crop_pads": [[0, 0, 0], [1, 1, 0]],
            "processing_blend_pads": [0, 0, 0],
        },
        r"came \[\[24, 24, 4\], \[6, 6, 4\]\], .* begins 6 voxels further along x: .* as op_kwargs\.m: ",
    ),
    "readonly dst": ({"dst": "readonly"}, r"dst, .*/volume: .* came a read-only one: build it with readonly: false"),
    "unreadable src": (
        {"op_kwargs": {"src": layer("file:///nowhere/volume")}},
        r"spec\.target\.op_kwargs\.src: file:///nowhere/volume: .* came a place without an info: correct",
    ),
    "password in a path": (
        {"op_kwargs": {"src": layer("https://user:hunter2@host/volume")}},
        r"spec\.target\.op_kwargs\.src: https://\.\.\.: expected a plain address, came one with a query or a password",
    ),
    "unknown type": (
        {"fn": {"@type": "lamda", "lambda_str": "lambda src: src"}},
        r"spec\.target\.fn: no type 'lamda' is registered: did you mean 'lambda'\? \(types of your own .*--import\)",
    ),
    "unknown argument": (
        {"processing_crop_pad": [0, 0, 0]},
        r"spec\.target\.processing_crop_pad: .* no argument of this name: did you mean 'processing_crop_pads'",
    ),
    "unknown argument of a layer": (
        {"dst": layer("file:///nowhere/volume", info_reference="x")},
        r"spec\.target\.dst\.info_reference: .* did you mean 'info_reference_path'",
    ),
    "no lambda": (
        {"fn": code("src + ")},
        r"spec\.target\.fn: lambda_str: expected `lambda src: \.\.\.`, came no Python",
    ),
    "function that is none": ({"fn": 5}, r"fn: expected a function, came 5"),
    "operation that is none": ({"fn": ..., "op": 5}, r"op: expected an operation, with get_input_resolution.*, came 5"),
    "function that raises": (
        {"fn": code("lambda src: src.nothing")},
        r"the function has failed for chunk 0 \(-14,-14,0,14,14,4\): AttributeError: .* \(lambda_str, line 1, in "
        r"<lambda>\): correct (it|the function)",
    ),
    "function with other arguments": (
        {"fn": code("lambda image=None: image")},
        r"op_kwargs\.src: fn takes no argument of this name: it takes image",
    ),
    "function that lacks arguments": (
        {"fn": code("lambda src, mask: src")},
        r"op_kwargs: fn needs mask, not given: add it",
    ),
    "result of another shape": (
        {"fn": code("lambda src: src[:, 2:]")},
        r"result for chunk 0 .* expected the shape \(1, 28, 28, 4\).* came \(1, 26, 28, 4\): return that, uncropped",
    ),
    "result of another type": (
        {"fn": code("lambda src: src.float()")},
        r"result for chunk 0 .* expected the destination's type uint8, came float32: round, clip and convert",
    ),
    "result that is no tensor": (
        {"fn": code("lambda src: 'x'")},
        r"result for chunk 0 .*: expected a tensor, came str: return one, CXYZ",
    ),
}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The folder of a volume that is not there yet."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out/volume"


def flow_of(volume: Path, changes: dict[str, Any]) -> dict[str, Any]:
    url = f"file://{volume}"
    special = {"segmentation": new(url, SEGMENTATION), "readonly": {**new(url), "readonly": True}}
    dst = changes.get("dst")
    return target(url, **{**changes, "dst": special[dst]} if isinstance(dst, str) else changes)


@pytest.mark.parametrize(("changes", "message"), FLOWS.values(), ids=FLOWS)
def test_flows(
    changes: dict[str, Any], message: str, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path / "run.json", flow_of(volume, changes))
    before = tree(tmp_path)
    check_refusal(run(spec), message, capsys)
    assert tree(tmp_path) == before


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "switch": ({"expand_bbox_backend": "yes"}, r"expand_bbox_backend: expected true or false, came 'yes'"),
    "sizes": ({"processing_chunk_sizes": None}, r"processing_chunk_sizes: expected a list of sizes, .* came None"),
    "modes": ({"processing_blend_modes": 3}, r"processing_blend_modes: expected modes out of linear, .*, came 3"),
    "dst": ({"dst": "file:///nowhere/volume"}, r"dst: expected a layer, such as .* came str: give one"),
    "op_kwargs": ({"op_kwargs": [layer(SRC)]}, r"op_kwargs: expected arguments by name, came list: give a dictionary"),
    "folders": ({"level_intermediaries_dirs": "a"}, r"level_intermediaries_dirs: expected a list of folders, came 'a'"),
    "folder": (
        {"level_intermediaries_dirs": ["https://host/a"]},
        r"level_intermediaries_dirs: expected a place to write to, came https://host/a, where one can only read",
    ),
    "resolution": ({"dst_resolution": [8, 0, 40]}, r"expected numbers above 0 as dst_resolution"),
    "op_args": (
        {"op_args": [1]},
        r"op_args: expected none, .* came some: give them as op_kwargs",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FORMS.values(), ids=FORMS)
def test_values_of_another_form(
    changes: dict[str, Any], message: str, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", **changes))
    before = tree(tmp_path)
    check_refusal(run(spec), message, capsys)
    assert tree(tmp_path) == before


def faults(capsys: pytest.CaptureFixture[str], status: int) -> list[str]:
    """Return what is told of several faults: how many, and then each."""
    out, err = capsys.readouterr()
    assert (status, out) == (2, ""), (status, out, err)
    return err.splitlines()


def test_all_faults_are_told_at_once_each_on_a_line(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "fn": ...,
        "auto_bbox": True,
        "expand_bbox_backend": True,
        "processing_blend_modes": ["linear", "defer"],
        "processing_chunk_sizes": [[32, 32, 4], [15, 16, 4]],
        "dst_resolution": [16, 16, 40],
        "level_intermediaries_dirs": ["a", "b", "c"],
    }
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", **changes))
    before = tree(tmp_path)
    first, *lines = faults(capsys, run(spec))
    assert first == "error: the spec has 7 faults:"
    assert [line.split(":")[0] for line in lines] == [
        "  1. fn, op",
        "  2. bbox, auto_bbox",
        "  3. level_intermediaries_dirs",
        "  4. dst, file",
        "  5. expand_bbox_backend, expand_bbox_processing",
        "  6. processing_blend_modes[1]",
        "  7. processing_chunk_sizes[1]",
    ]
    assert tree(tmp_path) == before


def test_unknown_names_are_all_told(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow = target(f"file://{volume}", fn={"@type": "lamda"}, crop_pad=1)
    flow["op_kwargs"]["src"]["pth"] = "hunter2"
    spec = write_spec(tmp_path / "run.json", flow, max_retry=5)
    lines = faults(capsys, run(spec))
    assert lines[0] == "error: the spec has 4 faults:"
    for line, text in zip(
        lines[1:],
        (
            "  1. spec.max_retry: mazepa.execute takes no argument of this name: did you mean 'max_task_retry'",
            "  2. spec.target.crop_pad: build_subchunkable_apply_flow takes no argument of this name: did you mean",
            "  3. spec.target.fn: no type 'lamda' is registered: did you mean 'lambda'",
            "  4. spec.target.op_kwargs.src.pth: build_cv_layer takes no argument of this name: did you mean 'path'",
        ),
        strict=True,
    ):
        assert line.startswith(text)
    assert "hunter2" not in "".join(lines)


def test_several_inputs_are_all_told(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = layer(SRC.replace("8,8,40", "16,16,40"))
    changes = {"fn": code("lambda a, b: a"), "op_kwargs": {"a": coarse, "b": coarse}}
    lines = faults(capsys, run(write_spec(tmp_path / "run.json", target(f"file://{volume}", **changes))))
    assert [line.split(":")[0] for line in lines] == ["error", "  1. op_kwargs.a", "  2. op_kwargs.b"]
    assert all("expected one of its resolutions, (16, 16, 40), came (8.0, 8.0, 40.0)" in line for line in lines[1:])


OPTIONS: dict[str, tuple[list[str], str]] = {
    "memory": (
        ["--memory_target=100000"],
        r"--memory_target: expected at least [\d,]+ .* came 100,000: raise it",
    ),
    "path of a setting": (
        ["--set=target.dts.path=x"],
        r"target\.dts\.path: spec\.target has no 'dts': did you mean 'dst'",
    ),
    "end of a setting": (
        ["--set=target.dst.pth=x"],
        r"target\.dst\.pth: spec\.target\.dst has no 'pth': did you mean 'path'",
    ),
    "index of a setting": (
        ["--set=target.processing_chunk_sizes.7=[1,1,1]"],
        r"processing_chunk_sizes has 2 items: expected an index from 0 to 1, came '7'",
    ),
    "setting without a value": (
        ["--set=target.dst"],
        r"target\.dst: expected a setting such as target",
    ),
    "value of a setting": (["--set=target.processing_gap=[1, 2"], r"target\.processing_gap: expected YAML"),
    "module": (
        ["--import=no_module_of_test"],
        r"no_module_of_test: expected a module that .* came none",
    ),
    "name of a module": (
        ["--import=ops.py/x"],
        r"ops\.py/x: expected the name of a module, such as my_pack",
    ),
    "scratch": (["--scratch=https://host/a"], r"--scratch: expected a place to write to, came https://host/a"),
    "option": (["--memory=5"], r"--memory: neither .* did you mean --memory_target"),
    "value": (["--allow_code=perhaps"], r"--allow_code: expected true or false, came 'perhaps'"),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options(
    options: list[str], message: str, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}"))
    before = tree(tmp_path)
    check_refusal(run(spec, *options), message, capsys)
    assert tree(tmp_path) == before


def test_no_spec(capsys: pytest.CaptureFixture[str]) -> None:
    check_refusal(main([]), r"expected also --spec=FILE: there is no default", capsys)


FILES: dict[str, tuple[str, bytes, str]] = {
    "another kind": ("run.toml", b"a = 1", r"expected a spec that ends in \.cue, \.json, \.yaml, \.yml, came \.toml"),
    "no kind": ("run", b"{}", r"expected a spec that ends in .*, came none"),
    "damaged JSON": ("run.json", b'{"@type": \n 5,}', r"run\.json: expected JSON, came another text: line 2: "),
    "damaged YAML": ("run.yaml", b"a: 1\nb: [1", r"run\.yaml: expected YAML, came another text: line \d: "),
    "no text": ("run.json", b"\xff\xfe\x00", r"run\.json: expected text in UTF-8, came other bytes: save it as that"),
    "a list": ("run.json", b"[1, 2]", r"run\.json: expected a spec with names, came a list: see the guide"),
    "no type": ("run.json", b'{"a": 1}', r'the spec: expected "@type": "mazepa\.execute" with a target'),
    "another type": ("run.json", b'{"@type": "Vec3D"}', r"spec: Vec3D needs x and y and z, not given: add them"),
    "no target": ("run.json", b'{"@type": "mazepa.execute"}', r"spec: mazepa\.execute needs target, not given: add it"),
    "another target": (
        "run.json",
        b'{"@type": "mazepa.execute", "target": 5}',
        r'spec: target: expected one flow, such as .*"build_subchunkable_apply_flow".*, came int: give one',
    ),
    "several targets": (
        "run.json",
        b'{"@type": "mazepa.execute", "target": [1, 2]}',
        r"spec: target: expected one flow, .* came 2 of them: give each a spec of its own, and run one after another",
    ),
    "a layer": (
        "run.json",
        json.dumps(layer(SRC)).encode(),
        r'the spec: expected "@type": "mazepa\.execute" with a target, .* came VolumetricLayer: see the guide',
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_files(name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    check_refusal(run(tmp_path / name), message, capsys)
    assert tree(tmp_path) == before


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_refusal(run(tmp_path / "run.cue"), r"run\.cue: expected a spec, came no file: see to the path", capsys)


def test_nothing_reads_cue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "run.cue").write_text("a: 1")
    check_refusal(
        run(tmp_path / "run.cue"),
        r"run\.cue: expected a program that reads CUE, found neither `cue` .* or give the spec as \.json or \.yaml",
        capsys,
    )


def test_what_cue_refuses(cue_works: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.cue").write_text('a: "hunter2" & 5')
    check_refusal(run(tmp_path / "run.cue"), r"run\.cue: expected CUE whose values are all given, came this: ", capsys)
    (tmp_path / "run.cue").write_text('secret: "hunter2" & "hunter3"')
    assert run(tmp_path / "run.cue") == 2
    assert "hunter" not in capsys.readouterr().err


CODE = r"spec\.target\.fn: lambda runs code .* unless it is allowed: read the spec, then allow it \(--allow_code\)"


def test_a_spec_of_a_template_may_hold_no_code(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parameters come from whoever may launch it."""
    monkeypatch.setenv("BEAM_VOLUMES_IMAGE", "registry/image:tag")
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}"))
    plain = write_spec(tmp_path / "plain.json", target(f"file://{volume}", fn=op("torch.relu")))
    before = tree(tmp_path)
    check_refusal(run(spec), CODE, capsys)
    check_refusal(run(plain, '--set=target.fn={"@type": "lambda", "lambda_str": "lambda src: src"}'), CODE, capsys)
    assert tree(tmp_path) == before
    assert run(spec, "--allow_code=true", "--plan") == 0


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of a folder."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    (tmp_path / "served").mkdir()
    handler = partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        https._session().close()
        server.shutdown()
        thread.join()


def test_a_spec_from_elsewhere_may_hold_no_code(
    web: str, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spec(tmp_path / "served/run.json", target(f"file://{volume}"))
    before = tree(tmp_path)
    check_refusal(run(f"{web}/run.json"), CODE, capsys)
    check_refusal(run(f"{web}/none.json"), r"none\.json: expected a spec, came no file", capsys)
    assert tree(tmp_path) == before
    assert run(f"{web}/run.json", "--allow_code=true", "--plan") == 0
    assert rows_of(capsys.readouterr().out)["output boxes left"] == "32 of 32, 16 x 16 x 4 at most"


ACCOUNTS = {
    "passwords": ["hunter2"],
    "credentials": {"user": "somebody", "key": "hunter2", "more": [{"key": "hunter2"}]},
    "secret_number": 48151623,
    "headers": {"Authorization": "Bearer hunter2"},
}


def test_secrets_are_in_no_record(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments of a function may hold them."""
    url = "https://user:hunter2@host/x?key=hunter2"
    fn = op("keyed_of_test", url=url, api_token="hunter2", accounts=ACCOUNTS)

    def spec(**changes: Any) -> Path:
        return write_spec(tmp_path / "run.json", target(f"file://{volume}", fn={**fn, **changes}))

    assert run(spec(), OPS) == 0
    assert run(spec(), OPS) == 0
    assert "nothing to do" in capsys.readouterr().err
    check_refusal(run(spec(api_token="hunter3"), OPS), r"holds another run: spec\.sha256 was ", capsys)
    check_refusal(run(spec(url="other"), OPS), r'fn\.url was "https://\.\.\.@host/x\?\.\.\.", now "other"', capsys)
    files = [path for path in volume.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if re.search(b"hunter|48151623", path.read_bytes())]


def test_what_the_function_says_is_told_without_secrets(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of zeros it makes something: it fails when the run has begun."""
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", fn=op("ending_of_test", how="raise")))
    assert run(spec, OPS) == 1
    line = only_error(capsys.readouterr().err)
    assert re.search(
        r"the function has failed for chunk 0 \(-14,-14,0,14,14,4\): ValueError: wrong: https://\.\.\.@host/x\?\.\.\. "
        r"\(/.*/apply_ops\.py, line \d+, in ending\): correct (it|the function), .* \(in top chunk 0,0,0,32,32,4\)$",
        line,
    )


def test_without_a_try_the_function_fails_in_the_run(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"file://{volume}", fn=code("lambda src: src.float()")))
    assert run(spec, "--dry_fn=false") == 1
    line = only_error(capsys.readouterr().err)
    assert "result for chunk 0 (-14,-14,0,14,14,4): expected the destination's type uint8, came float32" in line
    assert run(write_spec(tmp_path / "run.json", target(f"file://{volume}")), "--overwrite") == 0
