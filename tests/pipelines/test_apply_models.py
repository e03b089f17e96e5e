"""Torch models as the function of a run: saved, named by a spec, and applied in batches and in several processes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_volumes.applying.torch_model import TorchModel
from tests.beam_volumes.layers.layer_volumes import by_cloudvolume
from tests.pipelines.apply_runs import Spec, Voxels, applied, check_close, flow, report, run, stored, uniform


class Net(torch.nn.Module):
    """Two convolutions of 3 x 3 x 3, with fixed weights; a voxel depends on two around it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.second = torch.nn.Conv3d(4, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return as many voxels, NCXYZ."""
        return torch.tanh(self.second(torch.relu(self.first(data))))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Net().eval()).save(str(file))
    return file


def in_one_piece(source: Voxels) -> Voxels:
    """Return what the model makes of all of the volume, with as many zeros around as it sees."""
    padded = torch.nn.functional.pad(torch.from_numpy(source)[None], [2] * 6)
    with torch.no_grad():
        result = Net().eval()(padded)[0, :, 2:-2, 2:-2, 2:-2]
    return np.asarray(result)


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return, as they come, how many chunks go through the model at once."""
    sizes: list[int] = []
    batched = TorchModel.batched

    def counted(self: TorchModel, calls: Any) -> Any:
        sizes.append(len(calls))
        return batched(self, calls)

    monkeypatch.setattr(TorchModel, "batched", counted)
    return sizes


# The crops of the bottom level are what the model sees around a voxel.
CROPPED: Spec = {
    "processing_chunk_sizes": [[20, 18, 5], [8, 6, 3]],
    "processing_crop_pads": [[2, 0, 1], [2, 2, 2]],
    "processing_blend_pads": [[4, 3, 1], [3, 2, 1]],
}
ONE_LEVEL: Spec = {"processing_chunk_sizes": [[10, 9, 5]], "processing_crop_pads": [[2, 2, 2]]}


@pytest.mark.parametrize("cut", [ONE_LEVEL, CROPPED])
def test_a_model_in_batches(cut: Spec, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as in one piece, whatever the batch; with one level as many chunks are in an element as in a batch."""
    source = stored(tmp_path / "src", uniform())
    found = []
    for batch in (1, 4):
        sizes = batches_of(monkeypatch)
        fn = {"@type": "torch_model", "path": str(model), "batch": batch, "device": "cpu"}
        found.append(applied(tmp_path, flow(tmp_path, **cut, fn=fn), "--dry_fn=false", "--overwrite"))
        chunks = report(tmp_path)["stages"]["chunks"]["chunks_of_the_function"]
        if batch == 4:
            # Of each of 8 chunks of the top level some may be left; here their number is a multiple of 4.
            assert sizes == [4] * (chunks // 4)
    check_close(found[0], in_one_piece(source))
    check_close(found[1], found[0])


def test_a_model_in_two_processes(model: Path, tmp_path: Path) -> None:
    source = stored(tmp_path / "src", uniform())
    fn = {"@type": "torch_model", "path": str(model), "batch": 4, "device": "cpu"}
    target = flow(tmp_path, **CROPPED, processing_blend_modes="bump", fn=fn)
    assert run(tmp_path, target, processes=2) == 0
    check_close(by_cloudvolume(tmp_path / "dst"), in_one_piece(source))
