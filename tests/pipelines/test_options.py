import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes.codecs import ENCODINGS
from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from pipelines.option_values import value_type
from pipelines.options import help_text, identity, option, option_table, options_of, parse
from pipelines.shared_options import Encodings, Options, Pyramid, Writing


@dataclass(frozen=True)
class Config:
    src: str = option("Volume to read.", placeholder="URL")
    mip: int = option("Level to read.", 0)
    timestamp: int | None = option("UNIX second.", None)
    chunk_size: tuple[int, int, int] = option("Shape of a chunk, voxels.", (128, 128, 32))
    encoding: Literal["raw", "png"] | None = option("How chunks are stored.", None)
    compress: Literal["gzip", "br"] | None = option("Around chunks; none leaves it out.", "gzip")
    sharded: bool = option("Write shards.", True)
    bounds: Box | None = option("Half open.", None)
    token_env: str | None = option("Where the token is.", None, identity=False)
    suffix: str = option("Appended to names.", "")
    plan: bool = option("Write nothing.", False, identity=False)
    cell: Vec = option("Shape.", (1, 1, 1), least=1)
    tries: int | None = option("Tries.", None, least=0)
    factor: tuple[Vec, ...] = option("Factors.", ((2, 2, 1),), least=1)
    levels: tuple[int, ...] | None = option("Levels.", None, least=0)
    shares: tuple[float, ...] = option("Shares.", (4.0,), least=1)
    encodings: tuple[Literal["raw", "png"], ...] | None = option("Encodings, mip by mip.", ("raw",))
    num_mips: int | Literal["auto"] = option("Mips.", "auto", least=1)
    depth: int | Literal["auto", "all"] | None = option("Depth.", None)

    def __post_init__(self) -> None:
        if self.mip < 0:
            raise OptionError(f"--mip: expected 0 or more, came {self.mip}")


def config_of(*argv: str) -> Config:
    config, rest = parse(Config, ["--src=gs://bucket/seg", *argv])
    assert rest == []
    return config


def test_defaults_stand_where_nothing_is_given() -> None:
    assert config_of() == Config(src="gs://bucket/seg")


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--mip=3", "mip", 3),
        ("--timestamp=1705911001", "timestamp", 1705911001),
        ("--chunk_size=64,64,-1", "chunk_size", (64, 64, -1)),
        ("--encoding=png", "encoding", "png"),
        ("--compress=none", "compress", None),
        ("--bounds=-1,2,3,4,5,6", "bounds", Box((-1, 2, 3), (4, 5, 6))),
        ("--token_env=none", "token_env", "none"),
        ("--suffix=", "suffix", ""),
        ("--suffix=a=b", "suffix", "a=b"),
        ("--sharded", "sharded", True),
        ("--sharded=True", "sharded", True),
        ("--sharded=1", "sharded", True),
        ("--sharded=false", "sharded", False),
        ("--sharded=0", "sharded", False),
        ("--nosharded", "sharded", False),
        ("--plan", "plan", True),
        ("--factor=2,2,2", "factor", ((2, 2, 2),)),
        ("--factor=2,2,1;2,2,1;2,2,2", "factor", ((2, 2, 1), (2, 2, 1), (2, 2, 2))),
        ("--levels=9", "levels", (9,)),
        ("--levels=9;0", "levels", (9, 0)),
        ("--shares=2;4.5", "shares", (2.0, 4.5)),
        ("--encodings=png;raw;png", "encodings", ("png", "raw", "png")),
        ("--encodings=none", "encodings", None),
        ("--num_mips=auto", "num_mips", "auto"),
        ("--num_mips=9", "num_mips", 9),
        ("--depth=all", "depth", "all"),
        ("--depth=-3", "depth", -3),
    ],
)
def test_a_value_is_read_as_its_type(argument: str, name: str, value: Any) -> None:
    came = getattr(config_of(argument), name)
    assert came == value
    assert type(came) is type(value)


def test_values_may_stand_in_the_next_argument_even_when_they_begin_with_a_dash() -> None:
    config, rest = parse(Config, ["--chunk_size", "-1,2,3", "--runner", "DirectRunner", "--src", "a"])
    assert (config.chunk_size, config.src, rest) == ((-1, 2, 3), "a", ["--runner", "DirectRunner"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--chunk_size=128,a", "--chunk_size: expected three whole numbers such as 128,128,32, came '128,a'"),
        ("--chunk_size=1,2,3,4", "--chunk_size: expected three whole numbers such as 128,128,32, came '1,2,3,4'"),
        ("--bounds=0,0,0", "--bounds: expected six whole numbers x0,y0,z0,x1,y1,z1 .*, came '0,0,0'"),
        ("--mip=1.5", "--mip: expected a whole number, came '1.5'"),
        ("--mip=1_0", "--mip: expected a whole number, came '1_0'"),
        ("--mip=", "--mip: expected a whole number, came ''"),
        ("--timestamp=none", "--timestamp: expected a whole number, came 'none'"),
        ("--encoding=jpg", "--encoding: expected one of raw, png, came 'jpg'"),
        ("--sharded=maybe", "--sharded: expected true or false, came 'maybe'"),
        ("--nosharded=true", "--nosharded=true does not take an argument"),
        ("--token_env=", "--token_env: expected text, came ''"),
        ("--mip", "Missing value for flag --mip; write every option as --name=value"),
        ("--mip=-1", "--mip: expected 0 or more, came -1"),
        (
            "--factor=2,2",
            "--factor: expected three whole numbers, once or several times, such as 2,2,1;2,2,2, 1 or more, came '2,2'",
        ),
        ("--factor=2,2,1;", "--factor: expected three .*, came '2,2,1;'"),
        ("--factor=;2,2,1", "--factor: expected three .*, came ';2,2,1'"),
        ("--factor=2,2,1;;2,2,1", "--factor: expected three .*, came '2,2,1;;2,2,1'"),
        ("--factor=", "--factor: expected three .*, came ''"),
        ("--factor=none", "--factor: expected three .*, came 'none'"),
        ("--factor=2,2,1;2,0,1", "--factor: expected three .*, 1 or more, came '2,2,1;2,0,1'"),
        ("--levels=1,2", "--levels: expected one or several whole numbers, such as 9;6, 0 or more, came '1,2'"),
        ("--shares=2;0.5", "--shares: expected one or several numbers, such as 2;4.5, 1 or more, came '2;0.5'"),
        ("--levels=1;-1", "--levels: expected .* 0 or more, came '1;-1'"),
        ("--encodings=raw,png", "--encodings: expected one or several of raw, png, such as raw;png, came 'raw,png'"),
        ("--encodings=raw;none", "--encodings: expected .*, came 'raw;none'"),
        ("--num_mips=all", "--num_mips: expected a whole number or auto, 1 or more, came 'all'"),
        ("--num_mips=0", "--num_mips: expected a whole number or auto, 1 or more, came '0'"),
        ("--num_mips=", "--num_mips: expected a whole number or auto, 1 or more, came ''"),
        ("--depth=1.5", "--depth: expected a whole number or auto or all, came '1.5'"),
    ],
)
def test_a_value_of_another_type_is_refused(argument: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config_of(argument)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk=1,1,1"], r"--chunk: neither .* has this option; did you mean --chunk_size\?"),
        (["--chunksize=1,1,1"], r"--chunksize: .*did you mean --chunk_size\?"),
        (["--runer=X"], r"--runer: .*did you mean --runner\?"),
        (["--max_num_worker=3"], r"--max_num_worker: .*did you mean --max_num_workers"),
        (["--no_sharded"], r"--no_sharded: .*did you mean --nosharded"),
        (["--nomip"], r"--nomip: .*did you mean --mip"),
        (["--zzzzzz=1"], "--zzzzzz: .*--help lists the options"),
        (["-x"], "-x: neither"),
        (["--", "--mip=1"], "--: neither"),
        (["stray"], "expected options written as --name=value, came 'stray'"),
        (["--sharded", "false"], "expected options written as --name=value, came 'false'"),
        (["--undefok=zzz", "--zzz"], "--undefok=zzz: expected an option of this pipeline"),
        (["--flagfile=/etc/hosts"], "--flagfile=/etc/hosts: expected an option of this pipeline"),
        (["--num_workers=many"], "Apache Beam: argument --num_workers: invalid int value: 'many'"),
        (["--streaming=true"], "Apache Beam: argument --streaming: ignored explicit argument 'true'"),
        (["--num_workers"], "Apache Beam: argument --num_workers: expected one argument"),
    ],
)
def test_what_neither_this_pipeline_nor_beam_knows_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config_of(*arguments)


def test_a_forgotten_value_does_not_swallow_the_next_option() -> None:
    with pytest.raises(OptionError, match="--src: expected text, came '--mip=1'"):
        parse(Config, ["--src", "--mip=1"])


@pytest.mark.parametrize("argv", [[], ["--mip=1"]])
def test_an_option_without_a_default_must_be_given(argv: list[str]) -> None:
    with pytest.raises(OptionError, match="expected also --src=URL: there is no default"):
        parse(Config, argv)


def test_an_empty_value_of_a_required_option_is_refused() -> None:
    with pytest.raises(OptionError, match="--src: expected text, came ''"):
        parse(Config, ["--src="])


def test_an_option_may_be_repeated_only_with_the_same_value() -> None:
    assert config_of("--mip=1", "--mip=1").mip == 1
    assert config_of("--plan", "--plan=true").plan
    with pytest.raises(OptionError, match="--mip: expected one value, came '1' and '2'"):
        config_of("--mip=1", "--mip=2")
    with pytest.raises(OptionError, match="--sharded: expected one value, came 'true' and 'false'"):
        config_of("--sharded", "--nosharded")
    with pytest.raises(OptionError, match="--runner: expected one value, came 'A' and 'B'"):
        config_of("--runner=A", "--runner", "B")
    with pytest.raises(OptionError, match="--machine_type: expected one value, came 'a' and 'b'"):
        config_of("--worker_machine_type=a", "--machine_type=b")
    _, rest = parse(Config, ["--src=a", "--experiments=one", "--experiments=two"])
    assert rest == ["--experiments=one", "--experiments=two"]


def test_options_of_beam_are_left_over_in_their_order() -> None:
    beam_args = ["--runner=DataflowRunner", "--project", "my-project", "--streaming", "--labels=a=b"]
    config, rest = parse(Config, ["--runner=DataflowRunner", "--mip=1", *beam_args[1:], "--src=a"])
    assert (config.mip, rest) == (1, beam_args)


def test_options_of_two_pipelines_do_not_meet() -> None:
    @dataclass(frozen=True)
    class Other:
        mip: str = option("Another meaning.", "x")

    assert parse(Other, ["--mip=deep"])[0] == Other("deep")
    assert config_of("--mip=2").mip == 2


def test_help_lists_every_option_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Config, ["--mip=no number", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed == help_text(Config) + "\n"
    for declared in options_of(Config):
        assert f"  --{declared.name}=" in printed
    assert "--src=URL  (required)\n      Volume to read.\n" in printed
    assert "--chunk_size=X,Y,Z  (default 128,128,32)\n" in printed
    assert "Apache Beam's (--runner" in printed


def test_identity_holds_the_types_of_json() -> None:
    config = config_of("--bounds=0,0,0,1,2,3", "--plan", "--token_env=TOKEN")
    expected = {
        "src": "gs://bucket/seg",
        "mip": 0,
        "timestamp": None,
        "chunk_size": [128, 128, 32],
        "encoding": None,
        "compress": "gzip",
        "sharded": True,
        "bounds": [0, 0, 0, 1, 2, 3],
        "suffix": "",
        "cell": [1, 1, 1],
        "tries": None,
        "factor": [[2, 2, 1]],
        "levels": None,
        "shares": [4.0],
        "encodings": ["raw"],
        "num_mips": "auto",
        "depth": None,
    }
    assert identity(config) == expected
    assert json.loads(json.dumps(expected)) == expected
    assert identity(config_of("--bounds=0,0,0,1,2,3")) == expected


def test_option_table_is_markdown() -> None:
    assert option_table(Config).splitlines()[:8] == [
        "| option | default | what it does |",
        "|---|---|---|",
        "| `--src=URL` | required | Volume to read. |",
        "| `--mip=N` | `0` | Level to read. |",
        "| `--timestamp=N` | none | UNIX second. |",
        "| `--chunk_size=X,Y,Z` | `128,128,32` | Shape of a chunk, voxels. |",
        r"| `--encoding=raw\|png` | none | How chunks are stored. |",
        r"| `--compress=gzip\|br` | `gzip` | Around chunks; none leaves it out. |",
    ]
    assert option_table(Config).splitlines()[-6:] == [
        "| `--factor=X,Y,Z;...` | `2,2,1` | Factors. |",
        "| `--levels=N;...` | none | Levels. |",
        "| `--shares=X;...` | `4` | Shares. |",
        r"| `--encodings=raw\|png;...` | `raw` | Encodings, mip by mip. |",
        r"| `--num_mips=N\|auto` | `auto` | Mips. |",
        r"| `--depth=N\|auto\|all` | none | Depth. |",
    ]
    assert "| `--suffix=TEXT` |  | Appended to names. |" in option_table(Config)


SETTINGS = settings(derandomize=True, deadline=None, max_examples=50)
numbers = st.integers(-(10**12), 10**12)
texts = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1).filter(
    lambda text: not text.startswith("--")
)


@SETTINGS
@given(
    src=texts,
    mip=st.integers(0, 10**6),
    timestamp=st.none() | numbers,
    chunk_size=st.tuples(numbers, numbers, numbers),
    encoding=st.sampled_from([None, "raw", "png"]),
    compress=st.sampled_from([None, "gzip", "br"]),
    sharded=st.booleans(),
    bounds=st.none() | st.builds(Box, st.tuples(*[numbers] * 3), st.tuples(*[numbers] * 3)),
    token_env=st.none() | texts,
    suffix=st.just("") | texts,
    plan=st.booleans(),
    factor=st.lists(st.tuples(*[st.integers(1, 10**6)] * 3), min_size=1).map(tuple),
    levels=st.none() | st.lists(st.integers(0, 100), min_size=1).map(tuple),
    shares=st.lists(st.floats(1, 10**6).map(lambda x: round(x, 6)), min_size=1).map(tuple),
    encodings=st.none() | st.lists(st.sampled_from(["raw", "png"]), min_size=1).map(tuple),
    num_mips=st.just("auto") | st.integers(1, 30),
    depth=st.none() | st.sampled_from(["auto", "all"]) | numbers,
)
def test_the_text_of_every_value_reads_as_the_value(**values: Any) -> None:
    config = Config(**values)
    declared = [option for option in options_of(Config) if option.name in values]
    texts = {option.name: option.text_of(values[option.name]) for option in declared}
    argv = [
        f"--{name}={text}"
        for name, text in texts.items()
        if values[name] is not None or name in ("compress", "encodings")
    ]
    assert parse(Config, argv) == (config, [])
    for each in declared:
        if each.type.regex and texts[each.name] != "none":
            assert re.fullmatch(each.type.regex, texts[each.name])
    assert json.loads(json.dumps(identity(config))) == identity(config)


@pytest.mark.parametrize(
    "annotation",
    [
        list[int],
        complex,
        tuple[bool, ...],
        tuple[Box, ...],
        tuple[int, int],
        int | str,
        str | None | int,
    ],
)
def test_a_type_that_no_option_has_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match=r"the type of an option: (list|<class 'complex'>|tuple|int \||str \||typing)"):
        value_type(annotation)


def test_a_field_that_is_no_option_is_refused() -> None:
    @dataclass(frozen=True)
    class Bare:
        mip: int = 0

    with pytest.raises(TypeError, match=r"Bare\.mip: expected a field made by option\(\)"):
        parse(Bare, [])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cell=4,0,4", r"--cell: expected three whole numbers such as 128,128,32, 1 or more, came '4,0,4'"),
        ("--tries=-1", r"--tries: expected a whole number, 0 or more, came '-1'"),
    ],
)
def test_numbers_below_the_least_are_refused(argument: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(Config, ["--src=x", argument])
    assert config_of("--cell=4,1,4", "--tries=0").cell == (4, 1, 4)


@dataclass(frozen=True, kw_only=True)
class Deep(Options):
    depth: int = option("How deep.", 3)
    speed: int = option("How fast.", 5)


@dataclass(frozen=True, kw_only=True)
class Mixed(Deep, Pyramid, Writing):
    src: str = option("Volume.")
    speed: int = option("Own help.", 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth == 0:
            raise OptionError("--depth: came 0")


def test_own_options_come_first_then_those_of_each_class() -> None:
    names = [declared.name for declared in options_of(Mixed)]
    shared = ["num_mips", "factor", "isotropic", "method", "sparse", "sharded", "compress"]
    assert names == ["src", "speed", "depth", *shared]
    assert [declared.default for declared in options_of(Mixed)][1:4] == [7, 3, "auto"]
    assert list(identity(Mixed(src="x"))) == names
    assert Mixed(src="x").factor == ((2, 2, 1),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth=0"], "--depth: came 0"),
        (["--compress=br"], "--compress: expected gzip or none for shards, came br: use gzip, or --sharded=false"),
        (
            ["--method=min", "--sparse"],
            "--sparse: expected --method=mode or auto with it, came min, which counts no labels: leave --sparse out",
        ),
        (
            ["--isotropic", "--factor=2,2,2;2,2,1"],
            "--factor: expected none with --isotropic.*, came 2,2,2;2,2,1:",
        ),
        (["--factor=2,2,1;1,1,1"], "--factor: expected numbers from 1, .*, came 2,2,1;1,1,1: a mip of factor 1,1,1"),
        (
            ["--num_mips=1", "--factor=2,2,1;2,2,2"],
            r"at most as many factors as --num_mips=1, came 2 \(2,2,1;2,2,2\): make more mips, or leave factors out",
        ),
        (["--num_mips=0", "--factor=2,2,2"], "at most as many factors as --num_mips=0, came 1"),
        (["--num_mips=0", "--sparse"], "--sparse: expected --num_mips of 1 or more with it, came 0"),
        (["--num_mips=0", "--isotropic", "--method=min"], "--isotropic, --method: expected --num_mips of 1 or more"),
    ],
)
def test_checks_of_every_class_are_made(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(Mixed, ["--src=x", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num_mips=0"],
        ["--num_mips=2", "--factor=2,2,1;2,2,2"],
        ["--num_mips=9", "--factor=2,2,1;2,2,2"],
        ["--factor=1,1,2"],
        ["--isotropic", "--num_mips=2"],
        ["--sparse", "--method=mode"],
        ["--sparse"],
        ["--compress=br", "--nosharded"],
    ],
)
def test_options_that_fit_pass_the_checks(arguments: list[str]) -> None:
    assert parse(Mixed, ["--src=x", *arguments])[0].src == "x"


def test_factors_of_a_program_are_checked_too() -> None:
    with pytest.raises(OptionError, match=r"--factor: expected numbers from 1, .* came 0,2,2"):
        Mixed(src="x", factor=((0, 2, 2),))
    with pytest.raises(OptionError, match=r"--factor: expected numbers from 1, .* came none"):
        Mixed(src="x", factor=())


def test_encodings_are_those_that_chunks_can_have() -> None:
    assert value_type(Encodings).placeholder == "|".join(["auto", *ENCODINGS]) + ";..."


@dataclass(frozen=True)
class Texts:
    set: tuple[str, ...] = option("Values.", ())
    import_: tuple[str, ...] = option("Modules.", (), identity=False)


def test_lists_of_texts_may_be_given_in_parts() -> None:
    config, rest = parse(Texts, ["--set=a.b=1", "--import=one", "--set", "c=[1, 2];d=x", "--runner=DirectRunner"])
    assert config == Texts(set=("a.b=1", "c=[1, 2]", "d=x"), import_=("one",))
    assert rest == ["--runner=DirectRunner"]
    assert identity(config) == {"set": ["a.b=1", "c=[1, 2]", "d=x"]}


def test_a_list_of_texts_may_be_empty() -> None:
    assert parse(Texts, ["--set=", "--import=one", "--import="]) == (Texts(import_=("one",)), [])


def test_an_option_may_have_a_name_that_python_uses() -> None:
    assert "--import=TEXT;..." in help_text(Texts)
    assert "`--import=TEXT;...`" in option_table(Texts)
    with pytest.raises(OptionError, match=r"--import_: neither this pipeline nor Apache Beam.*did you mean --import"):
        parse(Texts, ["--import_=a"])
