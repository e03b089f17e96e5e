"""The embedded proofreading server, asked by CloudVolume and by plain HTTP."""

import gzip
import io
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from cloudvolume import CloudVolume

from beam_volumes.geometry import Vec
from beam_volumes.testing.chunk_graph import DEMO_TIMES, INGESTED
from beam_volumes.testing.faults import Faults
from beam_volumes.testing.proofreading_server import ProofreadingServer, demo_server, main, write_watershed

SHAPE = (48, 40, 20)
CHUNK = (16, 16, 8)
TOKEN = "0123abcd"
Ids = npt.NDArray[np.uint64]


def labels() -> npt.NDArray[np.uint32]:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    made = ((x + y) // 20 + 4 * ((y + 2 * z) // 30)).astype(np.uint32)
    return np.asfortranarray(made)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofreadingServer]:
    with demo_server(tmp_path_factory.mktemp("demo"), labels(), CHUNK, (5, 6, 7)) as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


def again(demo: ProofreadingServer, **options: Any) -> ProofreadingServer:
    """A server of its own over the same graph and watershed."""
    return ProofreadingServer(demo.graph, demo.watershed_url, **options)


def api(server: ProofreadingServer) -> str:
    return f"{server.http_url}/segmentation/api/v1/table/{server.table}"


def post_ids(session: requests.Session, server: ProofreadingServer, ids: Ids, **query: object) -> requests.Response:
    params = {name: str(value) for name, value in query.items()}
    return session.post(f"{api(server)}/roots_binary", data=ids.tobytes(), params=params, timeout=20)


def binary(response: requests.Response) -> list[int]:
    response.raise_for_status()
    ids: list[int] = np.frombuffer(response.content, np.uint64).tolist()
    return ids


def watershed(server: ProofreadingServer) -> Ids:
    return np.asarray(CloudVolume(server.watershed_url, progress=False)[:])[..., 0]


@pytest.mark.parametrize("timestamp", DEMO_TIMES)
def test_cloudvolume_reads_the_roots_of_each_time(demo: ProofreadingServer, timestamp: int) -> None:
    volume = CloudVolume(demo.url, agglomerate=True, timestamp=timestamp, secrets=TOKEN, progress=False)
    image = np.asarray(volume[:])[..., 0]
    supervoxels = watershed(demo)
    assert np.array_equal(image, demo.graph.roots(supervoxels, timestamp))
    assert np.array_equal(image == 0, labels() == 0)
    assert len(np.unique(image)) < len(np.unique(supervoxels))


def test_cloudvolume_reads_layer_2(demo: ProofreadingServer) -> None:
    volume = CloudVolume(demo.url, secrets=TOKEN, progress=False)
    image = volume.download(volume.bounds, agglomerate=True, timestamp=DEMO_TIMES[1], stop_layer=2)
    l2 = demo.graph.roots(watershed(demo), DEMO_TIMES[1], 2)
    assert np.array_equal(np.asarray(image)[..., 0], l2)
    assert {volume.get_chunk_layer(n) for n in np.unique(l2[l2 != 0])} == {2}


def test_cloudvolume_reads_leaves_and_chunks(demo: ProofreadingServer) -> None:
    volume = CloudVolume(demo.url, secrets=TOKEN, progress=False)
    graph = demo.graph
    (root,) = graph.roots(graph.supervoxels[:1])
    leaves = volume.get_leaves(root, volume.bounds, 0)
    assert sorted(leaves.tolist()) == graph.leaves(int(root)).tolist()
    (l2,) = graph.roots(graph.supervoxels[:1], stop_layer=2)
    found = volume.get_chunk_mappings(l2, timestamp=DEMO_TIMES[2])
    pairs = graph.l2_chunk_children(int(volume.meta.decode_chunk_id(l2)), DEMO_TIMES[2])
    assert sorted((int(a), int(b)) for a, members in found.items() for b in members) == sorted(
        map(tuple, pairs.tolist())
    )


def test_cloudvolume_decodes_ids_as_the_graph_does(demo: ProofreadingServer) -> None:
    volume = CloudVolume(demo.url, secrets=TOKEN, progress=False)
    layout = demo.graph.layout
    for layer in range(1, layout.n_layers + 1):
        ids = np.unique(demo.graph.roots(demo.graph.supervoxels, stop_layer=layer)) if layer > 1 else None
        ids = demo.graph.supervoxels if ids is None else ids[ids >> np.uint64(56) == layer]
        decoded = [list(map(int, volume.meta.decode_chunk_position(n))) for n in ids]
        assert decoded == layout.positions(layer, ids).tolist()
    corner = volume.meta.point_to_chunk_position(volume.voxel_offset, mip=0)
    assert [int(n) for n in corner] == [0, 0, 0]


@pytest.mark.parametrize("place", ["table/demo", "api/v1/table/demo", "api/v1/demo", "1.0/demo"])
def test_the_info_file_is_the_watersheds_and_the_graphs(
    demo: ProofreadingServer, session: requests.Session, place: str
) -> None:
    info = session.get(f"{demo.http_url}/segmentation/{place}/info", timeout=20).json()
    assert info["data_dir"] == demo.watershed_url
    assert info["scales"][0]["voxel_offset"] == [5, 6, 7]
    assert info["graph"] == {
        "chunk_size": [16, 16, 8],
        "n_layers": 4,
        "spatial_bit_masks": {"1": 8, "2": 2, "3": 1, "4": 1},
        "n_bits_for_layer_id": 8,
        "cv_mip": 0,
    }
    assert info["chunks_start_at_voxel_offset"] is True
    assert info["app"] == {"supported_api_versions": [0, 1]}
    assert (info["mesh"], info["sharded_mesh"], info["verify_mesh"]) == ("graphene_meshes", True, False)


def test_chunks_may_start_at_voxel_0_of_a_volume_that_does_not(tmp_path: Path) -> None:
    with demo_server(tmp_path, labels(), CHUNK, (5, 6, 7), chunks_start_at_voxel_offset=False) as server:
        volume = CloudVolume(server.url, agglomerate=True, timestamp=DEMO_TIMES[2], secrets=TOKEN, progress=False)
        assert volume.info["chunks_start_at_voxel_offset"] is False
        supervoxels = watershed(server)
        assert np.array_equal(np.asarray(volume[:])[..., 0], server.graph.roots(supervoxels, DEMO_TIMES[2]))
        # Voxel 5 + 11 is the first of the second chunk.
        assert server.graph.layout.positions(1, supervoxels[10:12, 20, 10])[:, 0].tolist() == [0, 1]


def test_answers_to_requests_are_those_of_the_graph(demo: ProofreadingServer, session: requests.Session) -> None:
    graph, timestamp = demo.graph, DEMO_TIMES[1]
    ids = graph.supervoxels[::3]
    roots = graph.roots(ids, timestamp)
    assert binary(post_ids(session, demo, ids, timestamp=timestamp)) == roots.tolist()
    assert binary(post_ids(session, demo, ids)) == graph.roots(ids).tolist()
    assert binary(post_ids(session, demo, ids[:0], timestamp=timestamp)) == []
    layer_2 = post_ids(session, demo, ids, timestamp=timestamp, stop_layer=2)
    assert binary(layer_2) == graph.roots(ids, timestamp, 2).tolist()

    def post(name: str, nodes: Ids, **query: str) -> Any:
        response = session.post(f"{api(demo)}/{name}", json={"node_ids": nodes.tolist()}, params=query, timeout=20)
        response.raise_for_status()
        return response.json()

    assert post("roots", ids, timestamp=str(timestamp)) == {"root_ids": roots.tolist()}
    unique = np.unique(roots)
    assert post("root_timestamps", unique) == {"timestamp": graph.root_timestamps(unique).tolist()}
    now = {"is_latest": graph.is_latest_roots(unique).tolist()}
    assert post("is_latest_roots", unique) == now
    assert set(now["is_latest"]) == {False, True}
    assert post("is_latest_roots", unique, timestamp=str(timestamp)) == {"is_latest": [True] * len(unique)}
    oldest = session.get(f"{api(demo)}/oldest_timestamp", timeout=20).json()
    assert oldest == {"iso": "2023-11-14 22:13:20+00:00", "epoch": float(INGESTED)}
    changed = session.get(
        f"{api(demo)}/delta_roots",
        params={"timestamp_past": DEMO_TIMES[0], "timestamp_future": DEMO_TIMES[1]},
        timeout=20,
    ).json()
    old, new = graph.delta_roots(DEMO_TIMES[0], DEMO_TIMES[1])
    assert changed == {"old_roots": old.tolist(), "new_roots": new.tolist()}
    assert len(old) > 0


def test_leaves_take_bounds_and_a_layer(demo: ProofreadingServer, session: requests.Session) -> None:
    graph = demo.graph
    (root,) = graph.roots(graph.supervoxels[:1]).tolist()
    url = f"{api(demo)}/node/{root}/leaves"
    found = session.get(url, params={"bounds": "5-20_6-21_7-14", "stop_layer": "2"}, timeout=20).json()
    nodes = graph.leaves(root, stop_layer=2)
    inside = nodes[(graph.layout.positions(2, nodes) == 0).all(axis=1)]
    assert found == {"leaf_ids": inside.tolist()}
    assert session.get(url, timeout=20).json() == {"leaf_ids": graph.leaves(root).tolist()}


def test_bodies_may_be_gzip_both_ways(demo: ProofreadingServer, session: requests.Session) -> None:
    ids = np.tile(demo.graph.supervoxels, 10)
    response = session.post(
        f"{api(demo)}/roots_binary",
        data=gzip.compress(ids.tobytes()),
        headers={"Content-Encoding": "gzip", "Accept-Encoding": "gzip;q=1, identity;q=0.1"},
        timeout=20,
    )
    assert response.headers["Content-Encoding"] == "gzip"
    assert binary(response) == demo.graph.roots(ids).tolist()
    plain = session.post(
        f"{api(demo)}/roots_binary", data=ids.tobytes(), headers={"Accept-Encoding": "identity"}, timeout=20
    )
    assert "Content-Encoding" not in plain.headers
    assert binary(plain) == demo.graph.roots(ids).tolist()
    broken = session.post(
        f"{api(demo)}/roots_binary", data=b"not gzip", headers={"Content-Encoding": "gzip"}, timeout=20
    )
    assert broken.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "segmentation/table/other/info", 400, "table other does not exist"),
        ("GET", "segmentation", 404, "no such request"),
        ("POST", "segmentation/api/v1/table/demo/roots_binary?timestamp=soon", 400, "not a valid unix timestamp"),
        ("POST", "segmentation/api/v1/table/demo/roots_binary?timestamp=nan", 400, "not a valid unix timestamp"),
        ("POST", "segmentation/api/v1/table/demo/roots_binary?stop_layer=9", 500, "above the root layer, 4"),
        ("GET", "segmentation/api/v1/table/demo/roots_binary", 405, "GET is not allowed for roots_binary"),
        ("GET", "segmentation/api/v1/table/demo/merge", 404, "no such request"),
        ("GET", "segmentation/api/v1/table/demo/l2_chunk_children_binary/1?as_array=True", 400, "not level 0"),
        ("GET", "segmentation/api/v1/table/demo/l2_chunk_children_binary/1", 501, "a pickle"),
        ("GET", "segmentation/api/v1/table/demo/delta_roots", 400, "timestamp_past is mandatory"),
        ("POST", "segmentation/api/v1/table/demo/roots", 500, "JSONDecodeError"),
    ],
)
def test_requests_that_make_no_sense_get_the_status_of_the_real_server(
    demo: ProofreadingServer, session: requests.Session, method: str, path: str, status: int, message: str
) -> None:
    response = session.request(method, f"{demo.http_url}/{path}", timeout=20)
    assert response.status_code == status
    assert message in response.json()["message"]


def test_a_body_that_is_no_ids_is_an_error(demo: ProofreadingServer, session: requests.Session) -> None:
    response = session.post(f"{api(demo)}/roots_binary", data=b"123456789", timeout=20)
    assert response.status_code == 500
    assert "multiple of element size" in response.json()["message"]


def test_assert_roots_turns_half_an_answer_into_an_error(demo: ProofreadingServer, session: requests.Session) -> None:
    ids = demo.graph.supervoxels[:4]
    assert binary(post_ids(session, demo, ids, timestamp=INGESTED - 1)) == ids.tolist()
    refused = post_ids(session, demo, ids, timestamp=INGESTED - 1, assert_roots=1)
    assert refused.status_code == 500
    assert "roots not found" in refused.json()["message"]
    answered = post_ids(session, demo, ids, timestamp=INGESTED, assert_roots=1)
    assert binary(answered) == demo.graph.roots(ids, INGESTED).tolist()


def test_tokens(demo: ProofreadingServer, session: requests.Session) -> None:
    with again(demo, token=TOKEN, forbidden=frozenset({"dead"})) as server:

        def ask(header: str | None, query: str = "") -> requests.Response:
            headers = {} if header is None else {"Authorization": header}
            url = f"{api(server)}/info{query}"
            return session.get(url, headers=headers, allow_redirects=False, timeout=20)

        assert ask(f"Bearer {TOKEN}").status_code == 200
        assert ask("Bearer beef").status_code == 401
        assert ask("Bearer dead").status_code == 403
        assert ask(None, f"?middle_auth_token={TOKEN}").status_code == 200
        login = ask(None)
        assert (login.status_code, login.headers["Location"]) == (302, f"{server.http_url}/login")
        followed = session.get(f"{api(server)}/info", timeout=20)
        assert (followed.status_code, followed.headers["Content-Type"]) == (200, "text/html")
        assert server.statistics.authorized == 3
        assert TOKEN not in f"{server} {server.statistics}"
        volume = CloudVolume(server.url, secrets=TOKEN, progress=False)
        assert volume.info["data_dir"] == server.watershed_url


def test_connections_are_kept_alive(demo: ProofreadingServer, session: requests.Session) -> None:
    places = set()
    for _ in range(3):
        with session.get(f"{api(demo)}/oldest_timestamp", stream=True, timeout=20) as response:
            connection: Any = response.raw.connection
            places.add(connection.sock.getsockname())
            assert response.json()["epoch"] == INGESTED
    assert len(places) == 1


def test_statistics_count_requests_and_ids(demo: ProofreadingServer, session: requests.Session) -> None:
    with again(demo) as server:
        ids = demo.graph.supervoxels[:10]
        post_ids(session, server, ids)
        post_ids(session, server, ids[5:])
        session.get(f"{api(server)}/info", timeout=20)
        session.get(f"{server.http_url}/robots.txt", timeout=20)
        assert server.statistics.requests == {"roots_binary": 2, "info": 1, "other": 1}
        assert server.statistics.statuses == {200: 3, 404: 1}
        assert server.statistics.ids_asked == 15
        assert server.statistics.unique_ids.tolist() == ids.tolist()


def test_statistics_know_the_most_requests_at_one_moment(demo: ProofreadingServer) -> None:
    def ask(_: int) -> int:
        with requests.Session() as own:
            return post_ids(own, server, ids).status_code

    ids = demo.graph.supervoxels[:3]
    with again(demo, faults=Faults(slow_seconds=0.3)) as server, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [200] * 4
        assert server.statistics.max_concurrent == 4
        assert server.statistics.concurrent == 0


def test_closing_does_not_wait_for_slow_answers_or_open_connections(demo: ProofreadingServer) -> None:
    arrived = threading.Event()

    class Watched(Faults):
        def fate(self, number: int) -> Any:
            arrived.set()
            return super().fate(number)

    def ask() -> str:
        with requests.Session() as own:
            try:
                return str(post_ids(own, server, demo.graph.supervoxels[:3]).status_code)
            except requests.ConnectionError:
                return "closed"

    with ThreadPoolExecutor(1) as pool:
        with again(demo, faults=Watched(slow_seconds=600)) as server, requests.Session() as idle:
            idle.get(f"{api(server)}/info", timeout=20)
            answer = pool.submit(ask)
            assert arrived.wait(20)
        assert answer.result(20) in ("200", "closed")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{api(server)}/info", timeout=20)


def statuses(session: requests.Session, server: ProofreadingServer, count: int) -> list[int | str]:
    """What becomes of so many requests for one id, which is known to have a root."""
    found: list[int | str] = []
    for _ in range(count):
        try:
            response = post_ids(session, server, server.graph.supervoxels[:1])
        except requests.exceptions.ChunkedEncodingError:
            found.append("truncated")
        except requests.ConnectionError:
            found.append("dropped")
        else:
            found.append(response.status_code)
    return found


def test_faults_come_as_ordered_and_the_same_each_time(demo: ProofreadingServer, session: requests.Session) -> None:
    faults = Faults(seed=1, rate=0.3, status=429, dropped=0.2, truncated=0.2)
    outcomes = {"fail": 429, "drop": "dropped", "truncate": "truncated", "answer": 200}
    for _ in range(2):
        with again(demo, faults=faults) as server:
            assert statuses(session, server, 25) == [outcomes[faults.fate(n)] for n in range(25)]
    counts = Counter(faults.fate(n) for n in range(4000))
    assert {fate: round(n / 4000, 1) for fate, n in counts.items()} == {
        "fail": 0.3,
        "drop": 0.2,
        "truncate": 0.2,
        "answer": 0.3,
    }
    assert [Faults(seed=2, rate=0.5).fate(n) for n in range(30)] != [Faults(rate=0.5).fate(n) for n in range(30)]


def test_the_first_requests_fail_and_say_when_to_come_back(demo: ProofreadingServer, session: requests.Session) -> None:
    with again(demo, faults=Faults(fail_first=2, status=503, retry_after=3)) as server:
        first = post_ids(session, server, demo.graph.supervoxels[:1])
        assert (first.status_code, first.headers["Retry-After"]) == (503, "3")
        assert statuses(session, server, 3) == [503, 200, 200]
        assert session.get(f"{api(server)}/info", timeout=20).status_code == 200


def test_faults_may_fall_on_other_requests(demo: ProofreadingServer, session: requests.Session) -> None:
    with again(demo, faults=Faults(fail_first=1, status=504, kinds=frozenset({"info"}))) as server:
        codes = [session.get(f"{api(server)}/info", timeout=20).status_code for _ in range(2)]
        assert codes == [504, 200]
        assert statuses(session, server, 1) == [200]


def test_too_many_ids_at_once_are_refused(demo: ProofreadingServer, session: requests.Session) -> None:
    with again(demo, faults=Faults(max_ids=5)) as server:
        ids = demo.graph.supervoxels
        assert post_ids(session, server, ids[:6]).status_code == 413
        assert binary(post_ids(session, server, ids[:5])) == demo.graph.roots(ids[:5]).tolist()


def test_answers_that_are_wrong_and_say_200(demo: ProofreadingServer, session: requests.Session) -> None:
    graph, timestamp = demo.graph, DEMO_TIMES[0]
    ids = graph.supervoxels
    roots, latest = graph.roots(ids, timestamp), graph.roots(ids)
    assert not np.array_equal(roots, latest)

    def asked(wrong: Any, **query: object) -> list[int]:
        with again(demo, faults=Faults(wrong=wrong)) as server:
            return binary(post_ids(session, server, ids, timestamp=timestamp, **query))

    assert asked("") == roots.tolist()
    assert asked("zeros") == [0] * len(ids)
    assert asked("too_few") == roots[:-1].tolist()
    assert asked("ignores_timestamp") == latest.tolist()
    assert asked("wrong_layer") == graph.roots(ids, timestamp, 2).tolist()
    assert asked("wrong_layer", stop_layer=2) == roots.tolist()


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_a_watershed_is_a_precomputed_volume(tmp_path: Path, encoding: str) -> None:
    supervoxels = np.random.default_rng(0).integers(0, 2**60, (33, 20, 9), np.uint64)
    url = write_watershed(tmp_path / "w", supervoxels, (8, 8, 40), (3, 2, 1), (16, 16, 8), encoding)
    assert url == f"file://{tmp_path}/w"
    volume = CloudVolume(url, progress=False)
    assert np.array_equal(np.asarray(volume[:])[..., 0], supervoxels)
    assert volume.scale["encoding"] == encoding
    assert [list(map(int, v)) for v in (volume.resolution, volume.voxel_offset)] == [[8, 8, 40], [3, 2, 1]]


def test_a_graph_whose_chunks_start_elsewhere_is_refused(demo: ProofreadingServer, tmp_path: Path) -> None:
    small = np.ones((16, 16, 8), np.uint64)
    url = write_watershed(tmp_path, small, voxel_offset=(1, 1, 1))
    with pytest.raises(ValueError, match=r"graph chunks start at \(5, 6, 7\): expected voxel 0, or"):
        ProofreadingServer(demo.graph, url).__enter__()
    with pytest.raises(FileNotFoundError, match="no info file at"):
        ProofreadingServer(demo.graph, f"{url}/nothing").__enter__()


def test_the_module_serves_a_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, ready, stop = io.StringIO(), threading.Event(), threading.Event()
    monkeypatch.setattr("sys.stdout", written)
    monkeypatch.setattr(written, "flush", ready.set)
    size: Vec = (64, 48, 40)
    argv = [f"--folder={tmp_path}", f"--size={','.join(map(str, size))}"]
    thread = threading.Thread(target=main, args=(argv, stop))
    thread.start()
    assert ready.wait(60)
    try:
        place = re.match(r"graphene://http://127\.0\.0\.1:\d+/segmentation/table/demo\n", written.getvalue())
        assert place is not None
        assert f"--timestamp={DEMO_TIMES[0]}, before all edits, and --timestamp={DEMO_TIMES[2]}" in written.getvalue()
        volume = CloudVolume(place[0].strip(), agglomerate=True, secrets=TOKEN, progress=False)
        assert tuple(map(int, volume.shape)) == (*size, 1)
        images = [
            np.asarray(volume.download(volume.bounds, timestamp=time)).copy() for time in (DEMO_TIMES[0], DEMO_TIMES[2])
        ]
        assert not np.array_equal(images[0], images[1])
        assert np.array_equal(images[0] == 0, images[1] == 0)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--size=256,256", "argument --size: expected x,y,z in whole numbers, came 256,256"),
        ("--size=1,0,1", "argument --size: expected 1 or more, came 1,0,1"),
    ],
)
def test_wrong_arguments_of_the_command_are_told(
    argument: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--folder={tmp_path}", argument])
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            main([f"--folder={tmp_path}", f"--port={port}"])
    assert f"--port: expected one that is free, came {port}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
