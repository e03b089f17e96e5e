import copy
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from beam_volumes.errors import OptionError, SourceError
from beam_volumes.graphene import GrapheneTable, GraphInfo, Token, find_token

TABLE = GrapheneTable("https", "pcg.example.org", "", "fly_v31")
SECRET = "0123456789abcdef0123456789abcdef"


def info() -> dict[str, Any]:
    return {
        "data_dir": "gs://bucket/ws",
        "graph": {
            "chunk_size": [256, 256, 512],
            "n_layers": 4,
            "spatial_bit_masks": {"1": 10, "2": 10, "3": 9, "4": 1},
            "n_bits_for_layer_id": 8,
            "cv_mip": 1,
        },
        "scales": [
            {"resolution": [4, 4, 40], "voxel_offset": [20, 40, 6]},
            {"resolution": [8, 8, 40], "voxel_offset": [10, 20, 6]},
        ],
    }


@pytest.mark.parametrize("path", ["table", "api/v1", "api/v1/table", "1.0"])
@pytest.mark.parametrize("auth", ["", "middleauth+"])
@pytest.mark.parametrize("end", ["", "/"])
def test_every_form_of_url_names_the_same_table(path: str, auth: str, end: str) -> None:
    table = GrapheneTable.parse(f"graphene://{auth}https://PCG.example.org/segmentation/{path}/fly_v31{end}")
    assert table == TABLE
    assert table.info_url == "https://pcg.example.org/segmentation/table/fly_v31/info"
    assert table.api_url("roots_binary") == "https://pcg.example.org/segmentation/api/v1/table/fly_v31/roots_binary"
    assert str(table) == "graphene://https://pcg.example.org/segmentation/table/fly_v31"
    assert GrapheneTable.parse(str(table)) == table


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "[::1]:80", "localhost"])
def test_a_prefix_and_a_port_are_kept(host: str) -> None:
    table = GrapheneTable.parse(f"graphene://http://{host}/a/b-c/segmentation/table/x.1-y")
    assert table == GrapheneTable("http", host, "/a/b-c", "x.1-y")
    assert table.info_url == f"http://{host}/a/b-c/segmentation/table/x.1-y/info"


@pytest.mark.parametrize(
    "url",
    [
        "graphene://",
        "graphene://pcg.example.org/segmentation/table/x",
        "graphene://gs://bucket/segmentation/table/x",
        "graphene://https://pcg.example.org/table/x",
        "graphene://https://pcg.example.org/segmentation/x",
        "graphene://https://pcg.example.org/segmentation/table/",
        "graphene://https://pcg.example.org/segmentation/table/x/info",
        "graphene://https://pcg.example.org/../segmentation/table/x y",
        "graphene://https:///segmentation/table/x",
        "https://pcg.example.org/segmentation/table/x",
    ],
)
def test_what_is_no_table_is_refused(url: str) -> None:
    with pytest.raises(
        OptionError, match=r"--src: expected graphene://https://HOST/segmentation/table/NAME, came "
    ) as e:
        GrapheneTable.parse(url)
    assert str(e.value).endswith(url)


@pytest.mark.parametrize(
    "url",
    [
        f"graphene://https://user:{SECRET}@pcg.example.org/segmentation/table/x",
        f"graphene://https://user:p?{SECRET}#@pcg.example.org/segmentation/table/x",
        f"graphene://https://pcg.example.org/segmentation/table/x?middle_auth_token={SECRET}",
        f"graphene://https://pcg.example.org/segmentation/table/x#{SECRET}",
        f"graphene://https://pcg.example.org/segmentation/table/x?a=b@{SECRET}",
    ],
)
def test_urls_that_may_hold_a_secret_are_refused_without_showing_it(url: str) -> None:
    with pytest.raises(OptionError, match=r"expected graphene://https://HOST/.*not shown here.*--token_env") as e:
        GrapheneTable.parse(url)
    assert SECRET not in str(e.value)


def test_info_is_taken_up() -> None:
    graph = GraphInfo.from_info(info(), "server")
    assert graph == GraphInfo("gs://bucket/ws", (256, 256, 512), 4, 1, (0, 0, 0), info())
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_the_chunk_grid_may_start_at_the_voxel_offset_of_its_mip() -> None:
    document = info() | {"chunks_start_at_voxel_offset": True}
    assert GraphInfo.from_info(document, "server").chunk_origin == (10, 20, 6)
    del document["scales"][1]["voxel_offset"]
    assert GraphInfo.from_info(document, "server").chunk_origin == (0, 0, 0)


@pytest.mark.parametrize("field", ["n_bits_for_layer_id", "spatial_bit_masks"])
def test_how_ids_are_made_need_not_be_told(field: str) -> None:
    document = info()
    del document["graph"][field]
    assert GraphInfo.from_info(document, "server") == replace(GraphInfo.from_info(info(), "server"), info=document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data_dir", None, "expected a text as data_dir in the server's info, came none"),
        ("graph", None, "graph.n_layers .* came none"),
        ("graph.chunk_size", None, "three numbers as graph.chunk_size .* came none"),
        ("graph.chunk_size", [1, 2], r"three numbers as graph.chunk_size .* came \[1, 2\]"),
        ("graph.chunk_size", [1, 2, 0], r"three whole numbers of at least 1 as graph.chunk_size .* came \[1, 2, 0\]"),
        ("graph.chunk_size", [1, 2, 0.5], r"three whole numbers of at least 1 as graph.chunk_size"),
        ("graph.n_layers", None, "graph.n_layers .* came none"),
        ("graph.n_layers", "4", "a whole number of at least 2 as graph.n_layers .* came '4'"),
        ("graph.n_layers", True, "graph.n_layers .* came True"),
        ("graph.cv_mip", None, "graph.cv_mip .* came none"),
        ("graph.cv_mip", 2, r"three numbers as scales.2.resolution .* came none"),
        ("graph.n_bits_for_layer_id", 6, "expected graph.n_bits_for_layer_id = 8, came 6"),
        ("scales", None, r"scales.1.resolution .* came none"),
    ],
)
def test_a_field_of_the_info_that_is_missing_or_wrong_is_named(path: str, value: Any, message: str) -> None:
    document = info()
    *folders, last = path.split(".")
    place = document
    for key in folders:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(SourceError, match=f"^server: .*{message}"):
        GraphInfo.from_info(document, "server")


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_an_info_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(SourceError, match=r"graph.n_layers .* came none"):
        GraphInfo.from_info(document, "server")


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOUD_VOLUME_DIR", str(tmp_path))
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


def revealed(token: Token | None) -> str:
    assert token is not None
    return token.reveal()


def test_no_place_and_no_file_is_no_token(secrets: Path) -> None:
    assert find_token(TABLE, None) is None


def test_the_file_of_the_host_goes_before_the_file_for_all(secrets: Path) -> None:
    (secrets / "cave-secret.json").write_text(json.dumps({"token": "aaa"}))
    token = find_token(TABLE, None)
    assert revealed(token) == "aaa"
    assert token is not None
    assert token.source == str(secrets / "cave-secret.json")
    (secrets / "pcg.example.org-cave-secret.json").write_text(json.dumps({"token": "bbb"}))
    assert revealed(find_token(TABLE, None)) == "bbb"
    assert revealed(find_token(GrapheneTable("https", "other.org", "", "x"), None)) == "aaa"


def test_files_are_in_the_home_folder_where_no_other_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUD_VOLUME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cloudvolume" / "secrets"
    folder.mkdir(parents=True)
    (folder / "cave-secret.json").write_text('{"token": "abc"}')
    assert revealed(find_token(TABLE, None)) == "abc"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "came something else"),
        (b'{"token": 3}', "came something else"),
        (b'{"token": "has a space"}', "came something else, not shown"),
        (b"\xff\xfe", "that can be read: UnicodeDecodeError"),
        (f'{{"token": "{SECRET}'.encode(), "came broken JSON"),
    ],
)
def test_a_file_without_a_token_is_named(secrets: Path, content: bytes, message: str) -> None:
    path = secrets / "cave-secret.json"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=f"{path}: expected .*{message}") as e:
        find_token(TABLE, None)
    assert SECRET not in repr(e.getrepr(chain=True))


def test_a_variable_holds_the_token_or_its_json(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "cave-secret.json").write_text(json.dumps({"token": "file"}))
    monkeypatch.setenv("MY_TOKEN", f" {SECRET}\n")
    assert revealed(find_token(TABLE, "MY_TOKEN")) == SECRET
    monkeypatch.setenv("MY_TOKEN", json.dumps({"token": "abc"}))
    assert revealed(find_token(TABLE, "MY_TOKEN")) == "abc"


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), ("", "is empty"), ("  ", "is empty")])
def test_a_variable_without_token_is_an_error_whatever_the_files_hold(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    (secrets / "cave-secret.json").write_text(json.dumps({"token": "file"}))
    if value is None:
        monkeypatch.delenv("MY_TOKEN_2", raising=False)
    else:
        monkeypatch.setenv("MY_TOKEN_2", value)
    with pytest.raises(OptionError, match=f"--token_env: expected a token in .* MY_TOKEN_2, which {message}"):
        find_token(TABLE, "MY_TOKEN_2")


@pytest.mark.parametrize("mistaken", [SECRET, "eyJhbGci/OiJIUzI1NiJ9+abcdefghijklmnop=="])
def test_a_token_given_in_place_of_a_name_is_not_shown(mistaken: str) -> None:
    with pytest.raises(OptionError, match=r"--token_env: expected .*not shown") as e:
        find_token(TABLE, mistaken)
    assert mistaken not in str(e.value)


def fake_secret_manager(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Put a stand-in for google.cloud.secretmanager in place; `answer` is bytes, or an error to raise."""
    asked: list[str] = []

    class Client:
        def access_secret_version(self, *, name: str) -> Any:
            asked.append(name)
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(payload=SimpleNamespace(data=answer))

    module = ModuleType("google.cloud.secretmanager")
    module.SecretManagerServiceClient = Client  # type: ignore[attr-defined]
    api, auth = ModuleType("google.api_core.exceptions"), ModuleType("google.auth.exceptions")
    api.GoogleAPIError = type("GoogleAPIError", (Exception,), {})  # type: ignore[attr-defined]
    auth.GoogleAuthError = PermissionError  # type: ignore[attr-defined]
    for name in ("google", "google.api_core", "google.auth", "google.cloud"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["google.cloud"].secretmanager = module  # type: ignore[attr-defined]
    for each in (module, api, auth):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return asked


def test_a_secret_is_read_in_its_latest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_secret_manager(monkeypatch, b"abc\n")
    token = find_token(TABLE, "projects/p-1/secrets/cave")
    assert revealed(token) == "abc"
    assert asked == ["projects/p-1/secrets/cave/versions/latest"]


def test_a_secret_that_cannot_be_read_is_an_option_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_secret_manager(monkeypatch, PermissionError("denied"))
    with pytest.raises(OptionError, match=r"--token_env: cannot read the secret projects/p/secrets/s: .*denied"):
        find_token(TABLE, "projects/p/secrets/s")


def test_a_secret_of_bytes_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_secret_manager(monkeypatch, b"\xff" + SECRET.encode())
    with pytest.raises(OptionError, match=r"a token as text in the secret projects/p/secrets/s") as e:
        find_token(TABLE, "projects/p/secrets/s")
    assert e.value.__suppress_context__


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_secret_manager(monkeypatch, b"")
    del sys.modules["google.cloud"].secretmanager
    monkeypatch.delitem(sys.modules, "google.cloud.secretmanager")
    with pytest.raises(OptionError, match="pip install google-cloud-secret-manager"):
        find_token(TABLE, "projects/p/secrets/s")


@pytest.mark.parametrize("name", ["projects/p/secrets", "projects/p/secrets/s/versions/3", "secrets/s"])
def test_what_is_no_secret_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"--token_env: expected .* or projects/P/secrets/S, came"):
        find_token(TABLE, name)


def test_a_token_is_not_shown_and_does_not_travel() -> None:
    token = Token(SECRET, "a test")
    shown = [repr(token), str(token), f"{token}", f"{[token]}"]
    assert shown == ["Token(*** from a test)"] * 3 + ["[Token(*** from a test)]"]
    assert not hasattr(token, "__dict__")
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a token is not pickled"):
            travel(token)
    assert token.masked(f"a {SECRET} b") == "a *** b"
