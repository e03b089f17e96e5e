"""Torch models as functions: files of each kind, batches, errors, memory."""

import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from beam_volumes import builder
from beam_volumes.applying import model_files, torch_model
from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.child_process import Child
from beam_volumes.errors import FunctionError, OptionError, SourceError
from beam_volumes.storage import Folder
from tests.object_store import running_store

BATCH = torch.export.Dim("batch")


class Net(torch.nn.Module):
    """Three convolutions, with a dropout that only evaluation mode leaves out."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.first = torch.nn.Conv3d(1, channels, 3, padding=1)
        self.second = torch.nn.Conv3d(channels, channels, 3, padding=1)
        self.third = torch.nn.Conv3d(channels, 2, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.third(self.dropout(torch.relu(self.second(torch.relu(self.first(image))))))


class Difference(torch.nn.Module):
    def forward(self, image: torch.Tensor, other: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
        return (image - other) * factor


class Pair(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image, image


class Mean(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=0, keepdim=True)


class Flat(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, 0]


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    torch.manual_seed(0)
    torch_model._LOADED.clear()
    torch_model._CHECKSUMS.clear()
    yield
    torch_model._LOADED.clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that have been read."""
    done: list[str] = []
    read = Folder.read

    def noted(self: Folder, name: str) -> bytes | None:
        done.append(name)
        return read(self, name)

    monkeypatch.setattr(Folder, "read", noted)
    return done


def saved(module: torch.nn.Module, path: Path) -> str:
    """Save a module as TorchScript, in training mode, as it is easily left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.train()).save(str(path))
    module.eval()
    return str(path)


def traced(module: torch.nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module.eval(), torch.zeros(1, 1, 4, 4, 4)).save(str(path))
    return str(path)


def exported(module: torch.nn.Module, path: Path, **options: Any) -> str:
    example = options.pop("example", (torch.zeros(2, 1, 7, 5, 4),))
    torch.export.save(torch.export.export(module.eval(), example, **options), path)
    return str(path)


def exported_of_any_batch(module: torch.nn.Module, path: Path) -> str:
    return exported(module, path, dynamic_shapes=({0: BATCH},))


def exported_of_one(module: torch.nn.Module, path: Path) -> str:
    return exported(module, path, example=(torch.zeros(1, 1, 7, 5, 4),))


def chunk(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (1, 7, 5, 4)))


def alone(module: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(image[None])[0]


KINDS = [saved, traced, exported_of_any_batch, exported_of_one]


@pytest.mark.parametrize("save", KINDS)
def test_a_chunk_comes_out_as_the_plain_module_gives_it(
    save: Callable[[torch.nn.Module, Path], str], tmp_path: Path
) -> None:
    net, image = Net(), chunk()
    # What kind of file it is stands in the file, not in its name.
    model = TorchModel(save(net, tmp_path / "model.bin"), "cpu")
    result = model(src=image)
    torch.testing.assert_close(result, alone(net, image), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(image), result, rtol=0, atol=0)
    result *= 2
    assert not result.requires_grad


@pytest.mark.parametrize("save", KINDS)
def test_chunks_of_a_batch_come_out_in_order(save: Callable[[torch.nn.Module, Path], str], tmp_path: Path) -> None:
    net, images = Net(), [chunk() for _ in range(5)]
    model = TorchModel(save(net, tmp_path / "model.pt"), "cpu", batch=2)
    for image, result in zip(images, model.batched([{"image": i} for i in images]), strict=True):
        torch.testing.assert_close(result, alone(net, image), rtol=0, atol=1e-5)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks have gone through a model at once."""
    seen: list[int] = []
    forward = TorchModel._forward

    def noted(self: TorchModel, loaded: Any, chunks: Any) -> Any:
        seen.append(len(chunks))
        return forward(self, loaded, chunks)

    monkeypatch.setattr(TorchModel, "_forward", noted)
    return seen


@pytest.mark.parametrize(
    ("save", "expected"), [(saved, [3, 3, 1]), (exported_of_any_batch, [3, 3, 1]), (exported_of_one, [1] * 7)]
)
def test_a_forward_takes_as_many_chunks_as_may_be(
    save: Callable[[torch.nn.Module, Path], str], expected: list[int], sizes: list[int], tmp_path: Path
) -> None:
    TorchModel(save(Net(), tmp_path / "model"), "cpu", batch=3).batched([{"image": chunk()}] * 7)
    assert sizes == expected


def test_chunks_that_differ_go_through_the_model_apart(sizes: list[int], tmp_path: Path) -> None:
    model = TorchModel(saved(Difference(), tmp_path / "model"), "cpu", batch=4)
    calls: list[dict[str, Any]] = [
        {"image": chunk(*shape), "other": chunk(*shape), "factor": factor}
        for shape, factor in [
            ((1, 3, 4, 5), 2.0),
            ((1, 3, 4, 6), 2.0),
            ((1, 3, 4, 5), 3.0),
            ((1, 3, 4, 5), 2.0),
            ((1, 3, 4, 6), 2.0),
        ]
    ]
    results = model.batched(calls)
    assert sizes == [2, 2, 1]
    for call, result in zip(calls, results, strict=True):
        torch.testing.assert_close(result, (call["image"] - call["other"]) * call["factor"], rtol=0, atol=0)
    assert model.batched([]) == []


def test_arguments_are_passed_by_name_or_in_their_order(tmp_path: Path) -> None:
    one, two = chunk(), chunk()
    scripted = TorchModel(saved(Difference(), tmp_path / "scripted"), "cpu")
    example = (torch.zeros(2, 1, 7, 5, 4),)
    keywords = {"other": torch.zeros(2, 1, 7, 5, 4)}
    shapes = {"image": {0: BATCH}, "other": {0: BATCH}}
    path = exported(Difference(), tmp_path / "exported", example=example, kwargs=keywords, dynamic_shapes=shapes)
    for model in (scripted, TorchModel(path, "cpu")):
        expected = (one - two) * 2
        for result in (
            model(other=two, image=one),
            model(src=one, reference=two),
            model(one, two),
            model(one, other=two),
            model(one, reference=two),
        ):
            torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(scripted(a=one, b=two, c=0.5), (one - two) * 0.5, rtol=0, atol=0)
    with pytest.raises(FunctionError, match=r"arguments for \(image, other, factor\).*came other, src: give all by"):
        scripted(other=two, src=one)
    with pytest.raises(FunctionError, match=r"came one without a name \(Tensor\), image, factor: give all by"):
        scripted(one, image=two, factor=1.0)
    with pytest.raises(FunctionError, match="came a, b, c, d"):
        scripted(a=one, b=two, c=1.0, d=1.0)
    with pytest.raises(FunctionError, match=r"batches of image float32 \(1, 7, 5, 4\), came .*missing value.*'other'"):
        scripted(one)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_store(monkeypatch, "bucket") as url:
        yield url


def test_models_are_loaded_from_a_bucket(bucket: str, reads: list[str], tmp_path: Path) -> None:
    net, image = Net(), chunk()
    for name, save in {"model.pt": saved, "deep/model.pt2": exported_of_any_batch}.items():
        local = Path(save(net, tmp_path / "model"))
        Folder(bucket).write(name, local.read_bytes())
        model = TorchModel(f"{bucket}/{name}", "cpu")
        torch.testing.assert_close(model(image), alone(net, image), rtol=0, atol=1e-5)
        assert model.version() == TorchModel(str(local)).version()
    reads.clear()
    model(image)
    assert reads == []
    with pytest.raises(SourceError, match=r"s3://bucket/none.pt: expected the file of a torch model, came no file"):
        TorchModel(f"{bucket}/none.pt").version()


def test_a_file_is_read_once_in_a_process(reads: list[str], tmp_path: Path) -> None:
    path = saved(Net(), tmp_path / "model.pt")
    model = TorchModel(path, "cpu")
    assert reads == []
    for each in (model, model, TorchModel(f"file://{path}", "cpu", batch=3), pickle.loads(pickle.dumps(model))):
        each(chunk())
        each.version()
    assert reads == ["model.pt"]
    assert len(torch_model._LOADED) == 1


def test_another_model_at_the_same_path_is_another(tmp_path: Path) -> None:
    path, image = tmp_path / "model.pt", chunk()
    first = TorchModel(saved(Net(), path), "cpu")
    before, version = first(image), first.version()
    net = Net()
    saved(net, path)
    second = TorchModel(str(path), "cpu")
    assert second.version() != version
    torch.testing.assert_close(second(image), alone(net, image), rtol=0, atol=1e-5)
    torch.testing.assert_close(first(image), before, rtol=0, atol=0)
    assert first.version() == version


def test_a_version_is_known_without_the_device(reads: list[str], tmp_path: Path) -> None:
    model = TorchModel(saved(Net(), tmp_path / "model.pt"), "cuda:99")
    assert [model.version(), model.version()] == [TorchModel(model.path).version()] * 2
    assert model.version().startswith("crc32c:")
    assert reads == ["model.pt"]
    assert torch_model._LOADED == {}


def test_weights_do_not_travel(tmp_path: Path) -> None:
    model = TorchModel(saved(Net(64), tmp_path / "model.pt"), "cpu", batch=3, amp=True)
    model(chunk())
    data = pickle.dumps(model)
    assert len(data) < 500
    assert pickle.loads(data) == model
    assert hash(pickle.loads(data)) == hash(model)


def test_a_spec_makes_a_model_where_code_is_allowed(tmp_path: Path) -> None:
    spec = {"@type": "torch_model", "path": str(tmp_path / "x"), "device": "cpu", "batch": 2, "amp": False}
    assert builder.build(spec) == TorchModel(str(tmp_path / "x"), "cpu", 2, False)
    with pytest.raises(OptionError, match="torch_model runs code"):
        builder.check(spec, allow_code=False)


def test_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(Net(), tmp_path / "model.pt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (TorchModel(path).device_type, TorchModel(path).uses_gpu) == ("cpu", False)
    with pytest.raises(OptionError, match="torch finds 0 GPUs, came cuda:1: run where there is one"):
        TorchModel(path, "cuda:1")(chunk())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (TorchModel(path).device_type, TorchModel(path, "cpu").uses_gpu) == ("cuda", False)
    assert TorchModel(path, "cuda:1").device_type == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match="torch finds 1 GPUs, came cuda:1"):
        TorchModel(path, "cuda:1")(chunk())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": ""}, "expected a local path"),
        ({"path": "ftp://host/x"}, "expected a local path"),
        ({"path": None}, "path: expected the path of a model, came None"),
        ({"path": "gs://bucket"}, "came 'gs://bucket', which names no file"),
        ({"device": "gpu"}, "device: expected cpu, cuda or cuda:1, came 'gpu'"),
        ({"device": 0}, "device: expected cpu, cuda or cuda:1, came 0"),
        ({"batch": 0}, "batch: expected a number of chunks from 1, came 0"),
        ({"batch": 2.0}, "batch: expected a number of chunks from 1, came 2.0"),
        ({"amp": 1}, "amp: expected true or false, came 1"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        TorchModel(**{"path": "/x", **arguments})


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    path = Path(saved(Net(), tmp_path / "model.pt"))
    whole = path.read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(whole[:-30])
    (tmp_path / "altered").write_bytes(whole.replace(b"dropout", b"dropoot"))
    for name, told in {
        "none": "none: expected the file of a torch model, came no file",
        "empty": "came 0 bytes that are no whole zip file: copy or save it again",
        "short": f"came {len(whole) - 30} bytes that are no whole zip file",
        "altered": "another checksum|no whole zip file",
    }.items():
        with pytest.raises(SourceError, match=told):
            TorchModel(str(tmp_path / name), "cpu")(chunk())


def test_pickled_models_are_refused_with_how_to_convert_them(tmp_path: Path) -> None:
    net = Net()
    torch.save(net, tmp_path / "module.pt")
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("module.pt", "weights.pt", "old.pt"):
        with pytest.raises(OptionError, match=r"what torch.save writes.*torch\.jit\.trace.*torch\.export\.save"):
            TorchModel(str(tmp_path / name), "cpu")(chunk())


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _with_part(path: Path, changed: Path, change: Callable[[str, bytes], bytes], added: dict[str, bytes]) -> None:
    """Write a zip file again with other parts."""
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(changed, "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
        for name, data in added.items():
            after.writestr(f"{before.namelist()[0].partition('/')[0]}/{name}", data)


def test_code_pickled_in_an_exported_model_is_not_run(tmp_path: Path) -> None:
    path, trap = Path(exported_of_any_batch(Net(), tmp_path / "model")), tmp_path / "trap"
    pickled = io.BytesIO()
    torch.save((_Evil(trap),), pickled)
    evil = pickled.getvalue()

    def inputs(name: str, data: bytes) -> bytes:
        return evil if "sample_inputs" in name else data

    def weight(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(data)
            config["config"]["first.weight"]["use_pickle"] = True
            return json.dumps(config).encode()
        return evil if name.endswith("weight_0") else data

    def config(name: str, data: bytes) -> bytes:
        return b"{}" if name.endswith("model_weights_config.json") else data

    def same(name: str, data: bytes) -> bytes:
        return data

    with pytest.warns(UserWarning, match="Duplicate"):
        _with_part(path, tmp_path / "twice", same, {"models/model.json": b"{}"})
    _with_part(path, tmp_path / "inputs", inputs, {})
    _with_part(path, tmp_path / "weight", weight, {})
    _with_part(path, tmp_path / "config", config, {})
    _with_part(path, tmp_path / "object", same, {"data/constants/custom_obj_0": b"x"})
    _with_part(path, tmp_path / "compiled", same, {"data/aotinductor/model/x.so": b"x"})
    for name, kind, told in [
        ("inputs", OptionError, "came data/sample_inputs/model.pt with pickled objects, which are not loaded"),
        ("weight", OptionError, "came data/weights/weight_0 with pickled objects"),
        ("object", OptionError, "tensors and operators alone, came data/constants/custom_obj_0, which is code"),
        ("compiled", OptionError, "came data/aotinductor/model/x.so, which is code"),
        ("twice", SourceError, "a part is there twice"),
        ("config", SourceError, "a list of weights that cannot be read"),
    ]:
        with pytest.raises(kind, match=told):
            TorchModel(str(tmp_path / name), "cpu")(chunk())
    assert not trap.exists()
    torch.load(io.BytesIO(evil), weights_only=False)
    assert trap.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a/b", "c")
    with pytest.raises(OptionError, match="came a zip file of something else"):
        TorchModel(str(tmp_path / "other.zip"), "cpu")(chunk())
    path = Path(saved(Net(), tmp_path / "model"))

    def change(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.relu", b"torch.rule") if "/code/" in name else data

    _with_part(path, tmp_path / "unknown", change, {})
    with pytest.raises(
        OptionError, match=r"expected a model that torch .* loads on cpu, came .*save it again with this"
    ):
        TorchModel(str(tmp_path / "unknown"), "cpu")(chunk())


def test_a_model_exported_for_several_chunks_exactly_is_refused(tmp_path: Path) -> None:
    path = exported(Net(), tmp_path / "model")
    with pytest.raises(OptionError, match="came one for exactly 2: export it with dynamic_shapes"):
        TorchModel(path, "cpu")(chunk())


def test_chunks_of_another_shape_or_type_than_the_model_takes_are_told(tmp_path: Path) -> None:
    path = exported_of_any_batch(Net(), tmp_path / "exported")
    with pytest.raises(FunctionError, match=r"image float32 \(1, 7, 5, 5\), came 'Guard failed: .*size.*give what it"):
        TorchModel(path, "cpu")(chunk(1, 7, 5, 5))
    scripted = TorchModel(saved(Net(), tmp_path / "scripted"), "cpu")
    with pytest.raises(
        FunctionError, match=r"image uint8 \(1, 7, 5, 4\), came 'Input type \(unsigned char\) and bias type \(float\)"
    ):
        scripted(torch.zeros(1, 7, 5, 4, dtype=torch.uint8))


def test_integers_come_as_they_are(tmp_path: Path) -> None:
    model = TorchModel(saved(Difference(), tmp_path / "model"), "cpu", batch=2)
    one, two = torch.randint(2**40, (2, 1, 3, 4, 5))
    seen: list[torch.dtype] = []
    model.load()
    (loaded,) = torch_model._LOADED.values()
    forward = loaded.forward

    def noted(**values: Any) -> Any:
        seen.append(values["image"].dtype)
        return forward(**values)

    loaded.forward = noted
    torch.testing.assert_close(model(one, two, 2.0), (one - two) * 2.0, rtol=0, atol=0)
    assert seen == [torch.int64]
    with pytest.raises(FunctionError, match=r"image bool \(1, 3, 4, 5\), other bool .*factor float"):
        model(one > 0, two > 0, 1.0)


@pytest.mark.parametrize(
    ("module", "came"),
    [
        (Pair(), "came a tuple: wrap the model"),
        (Mean(), r"2 x C x X x Y x Z, came a tensor of shape \(1, 1, 7, 5, 4\)"),
        (Flat(), r"came a tensor of shape \(2, 7, 5, 4\)"),
    ],
)
def test_results_of_another_form_are_refused(module: torch.nn.Module, came: str, tmp_path: Path) -> None:
    model = TorchModel(saved(module, tmp_path / "model"), "cpu", batch=2)
    with pytest.raises(FunctionError, match=rf"returns one tensor of five axes.*{came}"):
        model.batched([{"image": chunk()}] * 2)


@pytest.mark.parametrize("save", KINDS)
def test_amp_is_nearly_exact_and_gives_float32(save: Callable[[torch.nn.Module, Path], str], tmp_path: Path) -> None:
    net, image = Net(), chunk()
    result = TorchModel(save(net, tmp_path / "model"), "cpu", amp=True)(image)
    expected = alone(net, image)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-2)
    assert not torch.equal(result, expected)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(
            "The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory."
        ),
    ],
)
def test_a_batch_too_large_for_the_gpu_is_halved(error: Exception, tmp_path: Path) -> None:
    net, images = Net(), [chunk() for _ in range(9)]
    model = TorchModel(saved(net, tmp_path / "model"), "cpu", batch=5)
    model.load()
    (loaded,) = torch_model._LOADED.values()
    sizes, forward, fitting = [], loaded.forward, 2

    def limited(**values: Any) -> Any:
        sizes.append(len(values["image"]))
        if len(values["image"]) > fitting:
            raise error
        return forward(**values)

    loaded.forward = limited
    for _ in range(2):
        for image, result in zip(images, model.batched([{"image": i} for i in images]), strict=True):
            torch.testing.assert_close(result, alone(net, image), rtol=0, atol=1e-5)
    assert sizes == [5, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1]
    fitting = 0
    with pytest.raises(
        FunctionError, match=r"fits the GPU's memory, came image float32 \(1, 7, 5, 4\).*smaller processing_chunk_sizes"
    ):
        model(images[0])


REAL = """
import sys, torch
from pathlib import Path
from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.child_process import peak_memory_bytes
path, *shape = sys.argv[1:]
model = TorchModel(path, "cpu")
model.load()
Path("/proc/self/clear_refs").write_text("5")
before = peak_memory_bytes()
image = torch.rand(*map(int, shape))
for _ in range(12):
    model(image)
print(peak_memory_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak since some moment")
@pytest.mark.parametrize("shape", [(1, 96, 96, 20), (1, 128, 128, 40)])
def test_the_memory_measured_is_what_a_process_needs(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = saved(Net(16), tmp_path / "model")
    image = torch.zeros(shape)

    def measured_and_real() -> tuple[int, int]:
        measured = TorchModel(path, "cpu").measure({"image": image})
        # At least what lives at once: the input and the result of the second convolution, and what is between.
        assert measured > 2 * 16 * image.nbytes
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(REAL), path, *map(str, shape)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
        return measured + image.nbytes + 2 * image.nbytes, int(run.stdout)

    # What the heap cannot use again is in some processes much more than in most.
    tries = []
    for _ in range(3):
        planned, real = measured_and_real()
        tries.append((planned, real))
        if real == pytest.approx(planned, rel=0.2):
            return
    pytest.fail(f"expected processes that need what is planned, came (planned, real): {tries}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak since some moment")
def test_a_batch_is_measured_whole(tmp_path: Path) -> None:
    path, image = saved(Net(16), tmp_path / "model"), torch.zeros(1, 96, 96, 20)
    one, four = (TorchModel(path, "cpu", batch=n).measure({"image": image}) for n in (1, 4))
    # Input and result of the second convolution, of all chunks together; what else there is, is there once.
    assert 4 * 2 * 16 * image.nbytes < four < 4 * one


def test_a_measurement_tells_of_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = TorchModel(saved(Net(), tmp_path / "model"), "cpu")
    with pytest.raises(FunctionError, match=r"image uint8 \(1, 4, 4, 4\), came 'Input type"):
        model.measure({"image": torch.zeros(1, 4, 4, 4, dtype=torch.uint8)})
    with pytest.raises(SourceError, match="none: expected the file"):
        TorchModel(str(tmp_path / "none"), "cpu").measure({"image": chunk()})
    assert torch_model._LOADED == {}

    def killed(self: Child, call: bytes) -> bytes:
        self.process.kill()
        self.process.wait()
        raise EOFError

    monkeypatch.setattr(Child, "call", killed)
    with pytest.raises(FunctionError, match=r"which was killed by SIGKILL.*smaller processing_chunk_sizes"):
        model.measure({"image": chunk()})


def test_files_tell_their_kind_by_what_is_in_them(tmp_path: Path) -> None:
    for save in KINDS:
        data = Path(save(Net(), tmp_path / "model")).read_bytes()
        loaded = model_files.load("model", data, "cpu")
        assert loaded.names == ("image",)
        assert loaded.positional == (1 if "exported" in save.__name__ else 0)
        assert loaded.is_single == (save is exported_of_one)
