"""Options of the pipelines that mesh, each declared once; see `shared_options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beam_volumes.errors import OptionError
from beam_volumes.geometry import Vec
from beam_volumes.places import is_proofreading
from pipelines.options import option
from pipelines.shared_options import Asking, Options, Reading


@dataclass(frozen=True, kw_only=True)
class Choosing(Options):
    """Which labels are meshed, and how exactly."""

    labels: str | None = option(
        "Labels to mesh, such as 17,42, or a file of them; by default all. (Those of a Dataflow job are --label.)", None
    )
    exclude: str | None = option("Labels not to mesh, or a file of them.", None)
    max_error: float | None = option(
        "How far the finest level may be off, nm, and each coarser one twice as far, which ends simplification; by "
        "default the longest edge of a voxel.",
        None,
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class Indexing(Options):
    """Whether there is a spatial index."""

    spatial_index: bool | None = option(
        "Write files that tell which objects are in which box (*.spatial), too, for CloudVolume, index_mesh and "
        "merge_mesh; by default where all of the volume is meshed, without --bounds.",
        None,
        identity=False,
    )


@dataclass(frozen=True, kw_only=True)
class Forging(Choosing, Reading, Asking, Indexing):
    """How voxels become surfaces."""

    layer: str = option("Segmentation to mesh: Precomputed, or graphene://.", placeholder="URL")
    dst: str | None = option(
        "Precomputed volume to which the meshes are added; by default --layer.", None, identity=False, placeholder="URL"
    )
    mip: int = option("Mip to mesh.", 0, least=0)
    timestamp: int | None = option("UNIX second at which a graphene:// volume is meshed.", None, least=1)
    stop_layer: int | None = option("Mesh the ids of this layer (2 is level 2) instead of root ids.", None, least=2)
    dust_threshold: int = option("Fewest voxels of an object, counted in the whole volume.", 0, least=0)
    cell_size: Vec | None = option(
        "Voxels of a cell of the finest level; by default up to 256,256,256, as the memory allows.", None, least=1
    )
    memory_target: int = option(
        "Bytes that one worker may use; decides the size of cells where --cell_size does not.",
        3_500_000_000,
        identity=False,
        least=1,
    )
    simplification_factor: float = option(
        "Triangles of marching cubes for each one of the finest level, but for those at the borders of cells, which "
        "stay.",
        6,
        least=1,
    )
    fill_holes: bool = option("Drop the walls of cavities within objects.", False)
    close_borders: bool = option("Close objects where they meet the faces of the volume.", True)

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the layer is."""
        super().__post_init__()
        if self.dust_threshold >= 2**63:
            raise OptionError(f"--dust_threshold: expected fewer voxels than 2^63, came {self.dust_threshold}")
        asked = [f"--{name}" for name in ("timestamp", "stop_layer") if getattr(self, name) is not None]
        if is_proofreading(self.layer):
            if self.dst is None:
                raise OptionError(
                    "--dst: expected a Precomputed volume to add the meshes to, because nothing can be written to "
                    f"{self.layer}: export the segmentation first, and name its place"
                )
        elif asked:
            raise OptionError(f"{', '.join(asked)}: expected a graphene:// volume with it, as --layer")


@dataclass(frozen=True, kw_only=True)
class Storing(Options):
    """How multi-resolution meshes are stored."""

    num_lods: int = option("Levels of detail, each of cells twice as long as the one before.", 3, least=1)
    lod_factor: tuple[float, ...] = option(
        "Triangles of a level of detail for each one of the next coarser, level by level; the last one goes on.",
        (4.0,),
        least=1,
    )
    sharded: bool = option("Write shards; false gives each object files of its own.", True)
    vertex_quantization_bits: Literal[10, 16] = option("Of each coordinate within a cell.", 16)
    max_fragment_bytes: int = option(
        "Largest fragment; an object with larger ones gets finer levels, up to four, of smaller ones.",
        4_000_000,
        least=1_000,
    )

    def __post_init__(self) -> None:
        """Refuse factors of levels that there are not."""
        super().__post_init__()
        if len(self.lod_factor) > max(self.num_lods - 1, 1):
            raise OptionError(
                f"--lod_factor: expected at most one for each of the levels after the first, of which --num_lods="
                f"{self.num_lods} makes {self.num_lods - 1}, came {len(self.lod_factor)}: leave some out, or make more "
                "levels"
            )
