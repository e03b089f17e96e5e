"""Options that several pipelines have, each declared once: a Config inherits the classes whose options it takes.

@dataclass(frozen=True, kw_only=True)
class Config(Pyramid, Writing, Running):
    src: str = option("Volume to read.", placeholder="URL")

Its own options come first, in the help and everywhere else, then those of the classes in the order in which they
stand there. A class may be inherited and one of its options declared again, with another default or help. A Config
with a `__post_init__` calls `super().__post_init__()` in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Box, Vec
from beam_volumes.scale_planning import MipOptions
from pipelines.options import option

Encodings = tuple[Literal["auto", "raw", "compressed_segmentation", "compresso", "crackle", "png", "jpeg"], ...]
"""The type of an option `encoding` that names one for each mip; auto is `beam_volumes.encoding_choice`."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the classes of shared options have in common: the end of their chain of checks."""

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the source is."""


@dataclass(frozen=True, kw_only=True)
class Reading(Options):
    """Which voxels are read."""

    bounds: Box | None = option("Voxels of the source to read, at --mip, half open; by default all.", None)
    fill_missing: bool = option("Read chunks that the source lacks as 0; the report lists them.", False, identity=False)


@dataclass(frozen=True, kw_only=True)
class Pyramid(Options):
    """Which coarser mips are made, and how; an own `num_mips` may have another default."""

    num_mips: int | Literal["auto"] = option(
        "Coarser mips to make; auto goes on until the volume fits one chunk.", "auto", least=0
    )
    factor: tuple[Vec, ...] = option(
        'Fine voxels in a coarse one, mip by mip, the last one for all that follow: "2,2,1;2,2,2" in quotes.',
        ((2, 2, 1),),
        least=1,
    )
    isotropic: bool = option("Choose each factor so that voxels become as long in z as in x and y.", False)
    method: Literal["auto", "mode", "average", "min", "max", "stride"] = option(
        "What a coarse voxel becomes; auto is mode for segmentations and average for images.", "auto"
    )
    sparse: bool = option("Background does not count, where there is anything else; for mode only.", False)

    def __post_init__(self) -> None:
        """Refuse factors and methods that do not fit each other."""
        super().__post_init__()
        default = tuple(self.factor) == Pyramid.factor
        idle = [f"--{name}" for name in ("isotropic", "sparse") if getattr(self, name)]
        idle += ["--method"] if self.method != "auto" else []
        if self.num_mips == 0 and idle:
            raise OptionError(
                f"{', '.join(idle)}: expected --num_mips of 1 or more with it, came 0, which makes no mips: leave it "
                "out, or give --num_mips"
            )
        came = ";".join(",".join(str(n) for n in factor) for factor in self.factor)
        if self.isotropic and not default:
            raise OptionError(
                f"--factor: expected none with --isotropic, which chooses the factors, came {came}: leave one of "
                "the two out"
            )
        # Less than 1 is refused where text is read; a Config that a program makes has not been read.
        if not self.factor or any(min(factor) < 1 or max(factor) == 1 for factor in self.factor):
            raise OptionError(
                f"--factor: expected numbers from 1, one of each three 2 or more, such as 2,2,1, came {came or 'none'}"
                ": a mip of factor 1,1,1 would be the mip before it"
            )
        if not default and self.num_mips != "auto" and len(self.factor) > self.num_mips:
            raise OptionError(
                f"--factor: expected at most as many factors as --num_mips={self.num_mips}, came {len(self.factor)} "
                f"({came}): make more mips, or leave factors out"
            )
        if self.sparse and self.method not in ("auto", "mode"):
            raise OptionError(
                f"--sparse: expected --method=mode or auto with it, came {self.method}, which counts no labels: leave "
                "--sparse out"
            )


@dataclass(frozen=True, kw_only=True)
class Writing(Options):
    """How chunks are stored."""

    sharded: bool = option("Write shards; false writes each chunk as a file.", True)
    compress: Literal["gzip", "br", "none"] = option("Around chunks, not png and jpeg; br in single files.", "gzip")

    def __post_init__(self) -> None:
        """Refuse brotli in shards, which have no word for it."""
        super().__post_init__()
        if self.sharded and self.compress == "br":
            raise OptionError("--compress: expected gzip or none for shards, came br: use gzip, or --sharded=false")


@dataclass(frozen=True, kw_only=True)
class EncodingLevel(Options):
    """How hard chunks are encoded; `codecs.encoding_levels` checks it against the encodings."""

    encoding_level: tuple[int, ...] | None = option(
        "Quality of jpeg (0 to 100) or level of png (0 to 9), mip by mip, the last one for all that follow; by default "
        "85 and 9.",
        None,
        least=0,
    )


def mip_options(config: Any, chunk: Vec) -> MipOptions:
    """Return what a Config with the options of `Pyramid`, `Writing`, `EncodingLevel` and an `encoding` says of mips."""
    return MipOptions(
        chunk=chunk,
        num_mips=None if config.num_mips == "auto" else config.num_mips,
        factors=None if config.isotropic else config.factor,
        method=config.method,
        sparse=config.sparse,
        encodings=config.encoding,
        encoding_levels=config.encoding_level,
        compress=config.compress,
        sharded=config.sharded,
        memory_target=config.memory_target,
        fill_missing=config.fill_missing,
    )


@dataclass(frozen=True, kw_only=True)
class Asking(Options):
    """How the server of a proofreading volume is asked."""

    token_env: str | None = option(
        "Variable or secret (projects/P/secrets/S) with the token; else CloudVolume's files.", None, identity=False
    )
    max_requests_in_flight: int = option("Requests that the run keeps open at a server.", 16, identity=False, least=1)
    max_ids_per_second: int | None = option(
        "Ids that the run asks of a server a second.", None, identity=False, least=1
    )


@dataclass(frozen=True, kw_only=True)
class Sizing(Options):
    """How large what is written at a time may be."""

    memory_target: int = option("Bytes that one worker may use; decides the size of shards.", 3_500_000_000, least=1)


@dataclass(frozen=True, kw_only=True)
class Scratch(Options):
    """Where a run keeps what it makes on the way."""

    scratch: str | None = option("Folder for intermediate files; by default beside the volume.", None, identity=False)


@dataclass(frozen=True, kw_only=True)
class Running(Options):
    """How a run goes about it; see `beam_volumes.runs`."""

    resume: bool = option("Go on where an interrupted run of the same options stopped.", True, identity=False)
    overwrite: bool = option("Replace what stands at the destination.", False, identity=False)
    plan: bool = option("Print what would be done, and write nothing.", False, identity=False)
    processes: int = option("Processes of a local run; 0 is one per core.", 0, identity=False, least=0)
