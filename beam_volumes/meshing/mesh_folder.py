"""What a meshing run writes to: a folder of meshes in a volume that stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from beam_volumes.additions import check_exported, read_info
from beam_volumes.destinations import RECORDS, inside, write_json
from beam_volumes.errors import DestinationError, OptionError
from beam_volumes.precomputed.info import Json
from beam_volumes.storage import Folder, join


@dataclass(frozen=True)
class MeshFolder:
    """A folder of meshes, that the volume's `info` names when they are complete.

    Attributes:
        folder: below the volume.
        task: the pipeline.
        info: of the meshes; None until all is known of them.
        volume_option: the option that names the volume, without its dashes.

    """

    url: str
    folder: str
    task: str
    info: Json | None = None
    volume_option: str = "layer"

    option: ClassVar[str] = "mesh_dir"
    advice: ClassVar[str] = "choose another --mesh_dir, or replace what is there with --overwrite"

    @property
    def place(self) -> str:
        """The folder."""
        return join(self.url, self.folder)

    @property
    def records(self) -> str:
        """Of one run at a time for each folder."""
        return f"{RECORDS}/{self.folder.replace('/', '-')}"

    @property
    def report(self) -> str:
        """In the folder."""
        return f"{self.folder}/report.json"

    @property
    def folders(self) -> list[str]:
        """The folder."""
        return [self.folder]

    def check(self) -> None:
        """Refuse a volume that is still being written, and a folder that holds voxels, or lies outside."""
        info, scales = read_info(self.url, self.volume_option)
        if inside([self.folder]) != [self.folder]:
            raise OptionError(f"--{self.option}: expected the name of a folder in {self.url}, came {self.folder!r}")
        keys = [str(scale.get("key")) for scale in scales]
        others = [*keys, str(info.get("skeletons", "")), RECORDS]
        taken = [key for key in others if key and _overlap(key, self.folder)]
        if taken:
            raise OptionError(
                f"--{self.option}: expected a folder of its own for meshes, came {self.folder}, but {self.url}/info "
                f"says that {taken[0]} is something else: choose another name"
            )
        check_exported(self.url, self.volume_option)

    def obstacle(self, *, own: bool) -> str | None:
        """Something stands there."""
        found = None if own else next(Folder(self.url).list(f"{self.folder}/"), None)
        return (
            f"expected nothing in {self.url}/{self.folder}, but there is {found}, without a report" if found else None
        )

    def lacking(self) -> str | None:
        """Look whether the volume still names the folder."""
        info = Folder(self.url).read_json("info") or {}
        named = info.get("mesh")
        if (named == self.folder or not self.is_named_by(info)) and Folder(self.url).exists(f"{self.folder}/info"):
            return None
        return f"expected meshes in {self.url}/{self.folder}, as {self.report} says, but info names {named}"

    def standing(self) -> list[str]:
        """None but the folder itself."""
        return []

    def clear(self, folders: Sequence[str]) -> None:
        """Remove the meshes; from the volume's `info` first: readers find whole meshes or none."""
        self.retract()
        folder = Folder(self.url)
        for name in folders:
            folder.delete_folder(name)
        folder.delete_folder(self.records)

    def begin(self, *, replaced: bool) -> None:
        """Look once more whether the volume is complete."""
        self.check()

    def commit(self, provenance: Json) -> None:
        """Write the `info` of the meshes, and name them in that of the volume."""
        folder = Folder(self.url)
        if self.info is None:
            raise ValueError("expected the info of the meshes before they are committed")
        folder.delete_abandoned(self.folder)
        write_json(folder, f"{self.folder}/info", self.info)
        write_json(folder, f"{self.folder}/provenance", provenance)
        info = folder.read_json("info")
        if info is None:
            raise DestinationError(f"{self.url}: expected the info of the volume, but it is gone: restore it")
        if self.is_named_by(info) and info.get("mesh") != self.folder:
            write_json(folder, "info", {**info, "mesh": self.folder})

    def is_named_by(self, info: Json) -> bool:
        """Whether the volume's `info` is to name the folder: fragments only where there are no meshes yet."""
        return self.task != "forge_mesh" or info.get("mesh") in (None, self.folder)

    def warnings(self) -> list[str]:
        """Tell that the volume's `info` will name other meshes than now."""
        info = Folder(self.url).read_json("info") or {}
        if info.get("mesh") in (None, self.folder) or not self.is_named_by(info):
            return []
        return [
            f"{self.url}/info names the meshes in {info['mesh']}; it will name {self.folder} when these are "
            "complete, and viewers will show them. The others stay where they are"
        ]

    def retract(self) -> None:
        """Take the folder out of the volume's `info`."""
        folder = Folder(self.url)
        info = folder.read_json("info") or {}
        if info.get("mesh") == self.folder:
            write_json(folder, "info", {k: v for k, v in info.items() if k != "mesh"})


def _overlap(a: str, b: str) -> bool:
    return f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/")
