"""What a process keeps of a run: built once for all its threads, and with the model that was planned."""

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from beam_volumes.applying import worker
from beam_volumes.applying.plan import ApplyPlan
from beam_volumes.applying.torch_model import TorchModel
from beam_volumes.applying.worker import let_go, worker_of
from beam_volumes.errors import SourceError
from tests.beam_volumes.applying.test_processing import BOUNDS, planned
from tests.beam_volumes.layers.layer_volumes import random_voxels, stored_layer


@pytest.fixture(autouse=True)
def source(tmp_path: Path) -> Any:
    stored_layer(tmp_path / "src", random_voxels((1, *BOUNDS.shape), "uint8"), BOUNDS.start, chunk=(16, 16, 4))
    yield
    let_go()


def test_threads_of_a_process_share_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, built = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4]]), []

    class Slow(worker.Worker):
        def __init__(self, plan: ApplyPlan) -> None:
            built.append(threading.get_ident())
            time.sleep(0.05)
            super().__init__(plan)

    monkeypatch.setattr(worker, "Worker", Slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(worker_of, [plan] * 4))
    assert len(built) == 1
    assert len({id(each) for each in found}) == 1
    let_go()
    assert worker_of(plan) is not found[0]


def test_a_worker_that_another_thread_lets_go_is_still_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, processing_chunk_sizes=[[16, 16, 4]])

    class Dropped(dict[str, Any]):
        """As if another thread called `let_go` as soon as there is something."""

        def __setitem__(self, key: str, value: Any) -> None:
            """Forget it at once."""

    monkeypatch.setattr(worker, "_WORKERS", Dropped())
    assert worker_of(plan).flow.op_kwargs.keys() == {"src"}


def save(path: Path, module: torch.nn.Module) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.trace(module, torch.zeros(1, 1, 4, 4, 4)).save(str(path))


def test_a_model_that_was_replaced_since_the_plan_is_refused(tmp_path: Path) -> None:
    path, first = tmp_path / "model.pt", tmp_path / "first.pt"
    save(path, torch.nn.ReLU())
    first.write_bytes(path.read_bytes())
    plan = planned(
        tmp_path, processing_chunk_sizes=[[16, 16, 4]], fn={"@type": "torch_model", "path": str(path), "device": "cpu"}
    )
    expected = plan.claim.identity["model"]
    assert worker_of(plan).flow.model == TorchModel(str(path), "cpu")
    save(path, torch.nn.Sigmoid())
    # What this process has open stays what it was.
    assert worker_of(plan).flow.model is not None
    let_go()
    came = TorchModel(str(path), "cpu").version()
    message = rf"model\.pt: expected the model with which .* planned, {expected}, came another, {came}: put the former"
    with pytest.raises(SourceError, match=message):
        worker_of(plan)
    os.replace(first, path)
    assert worker_of(plan).flow.model is not None


def test_a_model_that_is_replaced_between_two_looks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(path, torch.nn.ReLU())
    model = TorchModel(str(path), "cpu")
    model.version()
    save(path, torch.nn.Sigmoid())
    with pytest.raises(SourceError, match=r"expected the model that was there .*, came another: put"):
        model.load()
    TorchModel(str(path), "cpu").load()
