"""Layers of proofreading volumes."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cloudvolume import CloudVolume

from beam_volumes.errors import DestinationError, OptionError
from beam_volumes.layers import build_cv_layer
from beam_volumes.testing.chunk_graph import DEMO_TIMES
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server

SHAPE, OFFSET, RESOLUTION = (40, 30, 20), (5, 6, 7), (16, 16, 40)
WHOLE = (RESOLUTION, slice(5, 45), slice(6, 36), slice(7, 27))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = ((x + y) // 12 + 4 * ((y + 2 * z) // 20)).astype(np.uint32)
    with demo_server(tmp_path_factory.mktemp("demo"), labels, (16, 16, 8), OFFSET) as running:
        yield running


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path))


def supervoxels(server: ProofreadingServer) -> Any:
    return np.moveaxis(np.asarray(CloudVolume(server.watershed_url, progress=False)[:]), 3, 0)


@pytest.mark.parametrize("timestamp", [DEMO_TIMES[0], DEMO_TIMES[2]])
def test_roots_at_a_moment(server: ProofreadingServer, timestamp: int) -> None:
    layer = build_cv_layer(server.url, {"timestamp": timestamp}, cache_bytes_limit=10**7)
    expected = server.graph.roots(supervoxels(server), timestamp)
    for _ in range(2):
        read = layer[WHOLE]
        assert read.dtype == torch.int64
        np.testing.assert_array_equal(read.numpy(), expected)
    part = pickle.loads(pickle.dumps(layer))[RESOLUTION, 0:20, 10:11, 7:30]
    np.testing.assert_array_equal(part[:, 5:, :, :20].numpy(), expected[:, :15, 4:5])
    assert not part[:, :5].any()


def test_supervoxels(server: ProofreadingServer) -> None:
    layer = build_cv_layer(server.url, {"agglomerate": False})
    np.testing.assert_array_equal(layer[WHOLE].numpy(), supervoxels(server))
    with pytest.raises(DestinationError, match="expected a scale of Precomputed that is not sharded to write to"):
        layer[WHOLE] = 1


@pytest.mark.parametrize("timestamp", [None, 1.5])
def test_roots_want_a_moment(server: ProofreadingServer, timestamp: Any) -> None:
    with pytest.raises(OptionError, match=r"expected a timestamp, in whole UNIX seconds, .* agglomerate=False"):
        build_cv_layer(server.url, {"timestamp": timestamp})
