import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import apache_beam
import pytest

from beam_volumes.errors import OptionError
from pipelines.beam_options import known_names, unknown_arguments
from pipelines.options import Option, options_of, parse
from templates import generate
from templates.main import main, with_image

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "templates/Dockerfile").read_text()
SETUP = (ROOT / "setup.py").read_text()
DATAFLOW = (ROOT / "docs/dataflow.md").read_text()
SAMPLES = [
    "",
    "0",
    "-1",
    "1.5",
    "a",
    "true",
    "True",
    "1,2,3",
    "1,2,a",
    "-1,-2,-3,4,5,6",
    "none",
    "raw",
    "gzip",
    "\u0661",
    "2,2,1;2,2,2",
    "1;2",
    "raw;png",
    "raw;",
    "auto",
]


@pytest.fixture(params=generate.PIPELINES)
def pipeline(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"pipelines.{request.param}")


def test_committed_files_are_what_is_generated() -> None:
    assert generate.main(["--check"]) == 0
    for path, text in generate.generated().items():
        assert (ROOT / path).read_bytes() == text.encode()


def test_every_pipeline_with_a_config_has_a_template() -> None:
    found = [path.stem for path in (ROOT / "pipelines").glob("*.py") if "\ndef main(" in path.read_text()]
    assert sorted(found) == sorted(generate.PIPELINES)


def test_drift_is_named_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    paths = list(generate.generated())
    assert generate.main(["--check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{path} is not what python -m templates.generate writes" for path in paths]
    assert list(tmp_path.iterdir()) == []

    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / paths[0]).write_text("{}")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{paths[0]} is not what python -m templates.generate writes\n"


def test_parameters_are_the_options(pipeline: ModuleType) -> None:
    name = pipeline.__name__.removeprefix("pipelines.")
    metadata = json.loads((ROOT / f"templates/{name}.json").read_text())
    fields = dataclasses.fields(pipeline.Config)
    parameters = {parameter["name"]: parameter for parameter in metadata["parameters"]}
    assert list(parameters) == [option.name for option in options_of(pipeline.Config)]
    assert sorted(parameters) == sorted(field.name.removesuffix("_") for field in fields)
    assert metadata["name"] == f"beam-volumes {name}"
    assert metadata["description"] == (pipeline.__doc__ or "").split("\n")[0]
    for field in fields:
        parameter = parameters[field.name.removesuffix("_")]
        assert parameter["isOptional"] == (field.default is not dataclasses.MISSING)
        assert parameter["helpText"].startswith(field.metadata["help"])
        assert parameter["paramType"] == "TEXT"
        assert parameter["label"]


def test_regexes_take_what_the_options_take(pipeline: ModuleType) -> None:
    for option in options_of(pipeline.Config):
        parameter = generate._parameter(option)
        for text in [*SAMPLES, "" if option.required else option.default_text]:
            if _reads(option, text):
                for regex in parameter.get("regexes", []):
                    assert re.match(regex, text), (option.name, text)
            elif text and not _reads(dataclasses.replace(option, least=None), text):
                # Text of any form has no regex; a number has one only where it is whole, and not how large it is.
                assert not any(re.match(regex, text) for regex in parameter.get("regexes", [])), (option.name, text)


def _reads(option: Option, text: str) -> bool:
    try:
        option.read(text)
    except OptionError:
        return False
    return True


def test_parameters_at_their_defaults_give_the_config(pipeline: ModuleType) -> None:
    given = {option.name: "gs://bucket/there" for option in options_of(pipeline.Config) if option.required}
    config, _ = parse(pipeline.Config, [f"--{name}={value}" for name, value in given.items()])
    values = [(option, getattr(config, option.field)) for option in options_of(pipeline.Config)]
    argv = [f"--{option.name}={option.text_of(value)}" for option, value in values if value is not None]
    assert parse(pipeline.Config, argv) == (config, [])


def test_no_option_has_the_name_of_one_of_beams(pipeline: ModuleType) -> None:
    ours = {f"--{option.name}" for option in options_of(pipeline.Config)}
    ours |= {f"--no{option.name}" for option in options_of(pipeline.Config) if option.type.is_bool}
    # Labels of a job have a second name in Beam, --label, and the option's help says so.
    shared = {
        option.name for option in options_of(pipeline.Config) if option.name == "labels" and "--label" in option.help
    }
    assert ours & known_names() == {f"--{name}" for name in shared}


def test_the_options_page_lists_every_option(pipeline: ModuleType) -> None:
    section = (ROOT / "docs/options.md").read_text().split(f"## {pipeline.__name__}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `--(\w+)=", section, re.MULTILINE) == [
        option.name for option in options_of(pipeline.Config)
    ]


def test_the_image_has_the_versions_of_the_package() -> None:
    beam = re.search(r"^FROM apache/beam_python(3\.\d+)_sdk:([\d.]+)$", DOCKERFILE, re.MULTILINE)
    assert beam is not None
    python, version = beam.groups()
    assert version == apache_beam.__version__
    assert f'"apache-beam>={version.rsplit(".", 1)[0]},<' in SETUP
    assert f'python_requires=">={python}"' in SETUP
    assert f"/python{python.replace('.', '')}-template-launcher-base" in DOCKERFILE


def test_the_image_copies_what_there_is() -> None:
    copies = [shlex.split(line)[1:] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    sources = [source for *copied, _ in copies for source in copied]
    assert {"setup.py", "constraints.txt", "pipelines", "templates/main.py"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    ignored = (ROOT / "templates/Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(sources)
    entry = re.search(r"^ENV FLEX_TEMPLATE_PYTHON_PY_FILE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert entry is not None
    assert ["templates/main.py", entry[1]] in copies


def test_the_image_is_built_for_a_pipeline_that_has_a_template() -> None:
    default = re.search(r"^ARG PIPELINE=(\w+)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert default[1] in generate.PIPELINES


@pytest.mark.parametrize("name", generate.PIPELINES)
def test_torch_is_in_the_image_of_apply_alone(name: str) -> None:
    (command,) = re.findall(r"^RUN (extras=(?:[^\\\n]|\\\n)*)", DOCKERFILE, re.MULTILINE)
    shown = subprocess.run(
        ["sh", "-ec", f'pip() {{ echo "$@"; }}; {command}'], env={"PIPELINE": name}, capture_output=True, text=True
    )
    assert shown.stdout.split()[-1] == (".[gcp,apply]" if name == "apply" else ".[gcp]"), shown.stderr
    before = DOCKERFILE[: DOCKERFILE.index("RUN extras")]
    assert "ARG PIPELINE=" in before


def test_the_launcher_runs_the_pipeline_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[Sequence[str]] = []

    def record(argv: Sequence[str]) -> int:
        came.append(argv)
        return 7

    module = ModuleType("pipelines.sample")
    monkeypatch.setattr(module, "main", record, raising=False)
    monkeypatch.setitem(sys.modules, "pipelines.sample", module)
    environment = {"BEAM_VOLUMES_PIPELINE": "sample", "BEAM_VOLUMES_IMAGE": "host/name:tag"}
    assert main(["--src=a"], environment) == 7
    assert came == [["--src=a", "--sdk_container_image=host/name:tag"]]


def test_an_image_that_was_asked_for_is_kept() -> None:
    assert with_image(["--a"], "") == ["--a"]
    for name in ("--sdk_container_image", "--worker_harness_container_image"):
        assert with_image([f"{name}=other"], "image") == [f"{name}=other"]
        assert with_image([name, "other"], "image") == [name, "other"]
    assert unknown_arguments(with_image([], "image")) == []


def _options(parameters: str) -> list[str]:
    return [f"--{parameter}" for parameter in parameters.split(",")]


def test_commands_of_the_dataflow_page_parse() -> None:
    config_class = importlib.import_module("pipelines.export").Config
    text = DATAFLOW.replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("python -m pipelines.export")]
    assert len(commands) == 1
    config, rest = parse(config_class, shlex.split(commands[0])[3:])
    assert (config.timestamp, "--runner=DataflowRunner" in rest) == (1705911001, True)

    parameters = re.findall(r"--parameters='\^~\^(.*)'", text)
    assert len(parameters) == 1
    config, rest = parse(config_class, [f"--{parameter}" for parameter in parameters[0].split("~")])
    assert (config.chunk_size, rest) == ((128, 128, 32), [])

    others = re.findall(r"--parameters=(layer=.*)", text)
    for name, parameters in zip(["downsample", "count_voxels", "mesh"], others, strict=True):
        config, rest = parse(importlib.import_module(f"pipelines.{name}").Config, _options(parameters))
        assert (config.layer, rest) == ("gs://my-bucket/seg", [])

    (parameters,) = re.findall(r"--parameters=(spec=.*)", text)
    config, rest = parse(importlib.import_module("pipelines.apply").Config, _options(parameters))
    assert (config.spec, config.set, rest) == ("gs://my-bucket/run.cue", ("target.dst.path=gs://my-bucket/out",), [])

    (body,) = re.findall(r"```json\n(.*?)```", DATAFLOW, re.DOTALL)
    launch = json.loads(body)["launchParameter"]["parameters"]
    config, rest = parse(config_class, [f"--{name}={value}" for name, value in launch.items()])
    assert (config.overwrite, rest) == (True, [])
