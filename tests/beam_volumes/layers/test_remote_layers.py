"""Layers of volumes in a bucket, and behind a web server."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes.errors import DestinationError
from beam_volumes.geometry import Box
from beam_volumes.layers import build_cv_layer, build_ts_layer
from beam_volumes.storage import Folder, https
from tests.beam_volumes.layers.layer_volumes import RESOLUTION, new_arguments, random_voxels, stored_layer
from tests.object_store import running_store

BOUNDS = Box.of_shape((37, 21, 11), (-5, 3, 7))
WHOLE = BOUNDS.slices()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_store(monkeypatch, "bucket") as url:
        yield f"{url}/volume"


@pytest.mark.parametrize("compress", ["gzip", "br", False])
def test_a_bucket(bucket: str, compress: Any) -> None:
    voxels = random_voxels((1, *BOUNDS.shape), "uint16")
    layer = build_cv_layer(**new_arguments(bucket, BOUNDS, "uint16", cv_kwargs={"compress": compress}))
    layer[0:8, 3:20, 7:9] = voxels[:, 5:13, :17, :2]
    expected = np.zeros_like(voxels)
    expected[:, 5:13, :17, :2] = voxels[:, 5:13, :17, :2]
    np.testing.assert_array_equal(layer[WHOLE].numpy(), expected)
    layer[WHOLE] = voxels
    layer[1:2, 4:5, 8:9] = 7
    voxels[0, 6, 1, 1] = 7
    np.testing.assert_array_equal(build_cv_layer(bucket)[(RESOLUTION, *WHOLE)].numpy(), voxels)
    assert len(list(Folder(bucket).list())) == 1 + 12


def test_a_web_server(tmp_path: Path) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    voxels = random_voxels((1, *BOUNDS.shape), "uint8")
    stored_layer(tmp_path / "volume", voxels, BOUNDS.start, cv_kwargs={"compress": False})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/volume"
        for build in (build_cv_layer, build_ts_layer):
            layer = build(url, default_desired_resolution=RESOLUTION)
            np.testing.assert_array_equal(layer[WHOLE].numpy(), voxels)
            with pytest.raises(DestinationError):
                layer[WHOLE] = 5
        https._session().close()
        server.shutdown()
        thread.join()
