"""Options, declared once: the fields of a pipeline's frozen Config, and all that is made of them.

@dataclass(frozen=True)
class Config:
    src: str = option("Volume to read.", placeholder="URL")
    mip: int = option("Level to read.", 0)
    plan: bool = option("Print what would be done, and write nothing.", False, identity=False)

config, beam_args = parse(Config, ["--src=gs://bucket/seg", "--mip=1", "--runner=DataflowRunner"])
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

from absl import flags

from beam_volumes.errors import OptionError
from pipelines import beam_options
from pipelines.option_values import ValueType, numbers_in, plain, value_type

ConfigT = TypeVar("ConfigT")

_HELP = ("--help", "-h", "-help")
# Every FlagValues takes these: one hides unknown options, the other brings options that no record shows.
_ABSL_OWN = ("undefok", "flagfile")


@dataclass(frozen=True)
class Option:
    """One option of a pipeline; `default` is MISSING where one must be given.

    `field` of the Config has its value: of its name, or, where Python has another use for that, with a `_` behind it.
    """

    name: str
    field: str
    help: str
    default: Any
    identity: bool
    placeholder: str
    type: ValueType
    optional: bool
    least: int | None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def default_text(self) -> str:
        """The default as it would be written; "required" or "none" where there is none."""
        return "required" if self.required else self.text_of(self.default)

    def text_of(self, value: Any) -> str:
        """Return the text that reads as this value; "none" for None."""
        return "none" if value is None else self.type.write(value)

    def read(self, text: str) -> Any:
        """Return the value of this text; raise OptionError with what was expected and what came."""
        # Text that starts with two dashes is the next option, where the value was forgotten. An empty one is
        # mostly an unset shell variable: only an option whose default is text can mean something by it.
        if text.startswith("--") or (not text and (self.required or self.default is None)):
            raise self.error(text)
        if self.optional and self.default is not None and text == "none":
            return None
        try:
            value = self.type.read(text)
        except ValueError:
            raise self.error(text) from None
        if self.least is not None and any(number < self.least for number in numbers_in(value)):
            raise self.error(text)
        return value

    def error(self, came: str) -> OptionError:
        """Return the error for a text that this option does not take."""
        least = "" if self.least is None else f", {self.least} or more"
        return OptionError(f"--{self.name}: expected {self.type.expected}{least}, came {came!r}")


def option(
    help: str,
    default: Any = MISSING,
    *,
    identity: bool = True,
    placeholder: str = "",
    least: int | None = None,
) -> Any:
    """Declare a field of a Config: an option without a default must be given.

    `identity=False` marks an option that does not change the bytes written (how much memory, whether to resume): a
    run may go on with another value of it. `placeholder` stands for the value in the help. A number, or each of a
    vector or of a list, is `least` or more.
    """
    metadata = {"help": help, "identity": identity, "placeholder": placeholder, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


def options_of(config_class: type[Any]) -> list[Option]:
    """Return the options of a Config: its own in their order, then those of each class that it inherits.

    Raises TypeError for a field that is no option.
    """
    hints = get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    # dataclasses would put what is inherited first; what is declared again stands where it was declared last.
    names = dict.fromkeys(name for cls in config_class.__mro__ for name in inspect.get_annotations(cls))
    found = []
    for field in (fields[name] for name in names if name in fields):
        if "help" not in field.metadata:
            raise TypeError(f"{config_class.__qualname__}.{field.name}: expected a field made by option()")
        kind = value_type(hints[field.name])
        found.append(
            Option(
                name=field.name.removesuffix("_"),
                field=field.name,
                help=field.metadata["help"],
                default=field.default,
                identity=field.metadata["identity"],
                placeholder=field.metadata["placeholder"] or kind.placeholder,
                type=kind,
                optional=type(None) in get_args(hints[field.name]),
                least=field.metadata["least"],
            )
        )
    return found


def parse(config_class: type[ConfigT], argv: Sequence[str]) -> tuple[ConfigT, list[str]]:
    """Return the Config of a command line (without the program's name) and what is left for Apache Beam.

    `--help` prints the options and raises SystemExit(0). Raises OptionError, with what was expected and what came,
    for an option that neither this pipeline nor Beam knows (abbreviations too), an argument that is no option, a
    value of another type, an option given twice with different values, and options that are missing; and whatever
    the Config's own checks raise.
    """
    if any(argument in _HELP for argument in argv):
        print(help_text(config_class))
        raise SystemExit(0)
    declared = options_of(config_class)
    values = _flag_values(declared)
    for argument in argv:
        if argument.startswith("-") and argument.lstrip("-").split("=", 1)[0] in _ABSL_OWN:
            raise OptionError(
                f"{argument}: expected an option of this pipeline or of Apache Beam; --help lists the options"
            )
    try:
        rest = values(["", *argv], known_only=True)[1:]
    except (flags.Error, ValueError) as error:
        raise OptionError(f"{error}; write every option as --name=value") from error
    _check_left_over(rest, declared)
    given = {option.field: values[option.name].value for option in declared if values[option.name].present}
    missing = [option for option in declared if option.required and option.field not in given]
    if missing:
        names = ", ".join(f"--{option.name}={option.placeholder}" for option in missing)
        raise OptionError(f"expected also {names}: there is no default; --help lists the options")
    return config_class(**given), rest


def identity(config: Any) -> dict[str, Any]:
    """Return what decides the bytes that are written: the options with `identity`, as JSON."""
    return {option.name: plain(getattr(config, option.field)) for option in options_of(type(config)) if option.identity}


def option_table(config_class: type[Any]) -> str:
    """Return the options as a Markdown table."""
    rows = ["| option | default | what it does |", "|---|---|---|"]
    for option in options_of(config_class):
        default = option.default_text if option.required or option.default is None else f"`{option.default_text}`"
        # A bar ends a cell of a table, within code too.
        cells = (f"`--{option.name}={option.placeholder}`", default.replace("``", ""), option.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def help_text(config_class: type[Any]) -> str:
    """Return what `--help` prints, as wide as the terminal."""
    declared = options_of(config_class)
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    required = " ".join(f"--{option.name}={option.placeholder}" for option in declared if option.required)
    lines = [_summary(config_class), "", f"python -m {_module_name(config_class)} {required} [--option=value ...]", ""]
    for option in declared:
        default = "required" if option.required else f"default {option.default_text or repr('')}"
        lines.append(f"  --{option.name}={option.placeholder}  ({default})")
        lines += textwrap.wrap(option.help, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", *textwrap.wrap(_BEAM_HELP, width)]
    return "\n".join(lines)


_BEAM_HELP = (
    "Options that are not listed here are Apache Beam's (--runner, --project, --max_num_workers ...): "
    "https://cloud.google.com/dataflow/docs/reference/pipeline-options. One that neither knows is an error."
)


class _TextParser(flags.ArgumentParser[Any]):
    """Reads the text of one option."""

    def __init__(self, option: Option) -> None:
        super().__init__()
        self._option = option

    def parse(self, argument: Any) -> Any:
        return self._option.read(argument)


class _OnceFlag(flags.Flag[Any]):
    """A flag that may be given again only with the same value, unless it is one of those that take more each time."""

    def __init__(self, option: Option) -> None:
        super().__init__(
            _TextParser(option),
            None,
            option.name,
            None,
            option.help,
            boolean=option.type.is_bool,
            allow_using_method_names=True,
        )
        self._option = option

    def parse(self, argument: Any) -> None:
        before = (self.value,) if self.present else None
        super().parse(argument)
        if before and self._option.type.repeats:
            self.value = (*(before[0] or ()), *(self.value or ()))
        elif before and before != (self.value,):
            came = f"{_shown(self._option.text_of(before[0]))} and {_shown(argument)}"
            raise OptionError(f"--{self.name}: expected one value, came {came}")


def _flag_values(declared: Iterable[Option]) -> flags.FlagValues:
    values = flags.FlagValues()
    # Without this, everything after the first value written as "--name value" would be left over.
    values.set_gnu_getopt(True)
    for option in declared:
        values[option.name] = _OnceFlag(option)
    return values


def _check_left_over(rest: Sequence[str], declared: Sequence[Option]) -> None:
    unknown = beam_options.unknown_arguments(rest)
    if not unknown:
        return
    first = next((argument for argument in unknown if argument.startswith("-")), None)
    if first is None:
        raise OptionError(f"expected options written as --name=value, came {_shown(unknown[0])}")
    name = first.split("=", 1)[0]
    known = [f"--{option.name}" for option in declared]
    known += [f"--no{option.name}" for option in declared if option.type.is_bool]
    known += sorted(beam_options.known_names() - set(known))
    near = [other for other in known if len(name) > 4 and other.startswith(name)]
    near += [other for other in get_close_matches(name, known, cutoff=0.7) if other not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "--help lists the options"
    raise OptionError(f"{name}: neither this pipeline nor Apache Beam has this option; {hint}")


def _shown(text: str) -> str:
    """Return a text as it came, unless it may be a URL with a password."""
    return "(not shown: it may hold a password)" if "://" in text and "@" in text else repr(text)


def _module_name(config_class: type[Any]) -> str:
    module = sys.modules[config_class.__module__]
    spec = getattr(module, "__spec__", None)
    return spec.name if spec else module.__name__


def _summary(config_class: type[Any]) -> str:
    text = inspect.getdoc(sys.modules[config_class.__module__]) or ""
    return text.split("\n", 1)[0]
