"""Fragments that stand in files, of this program or another: which boxes they are of, and where their cells lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from beam_volumes.errors import CorruptDataError, OptionError
from beam_volumes.geometry import Box, Grid, Vec
from beam_volumes.meshing.mesh_info import BOUNDS, LOW, OVERLAP
from beam_volumes.meshing.mesh_input import FragmentFiles
from beam_volumes.number_lists import NumberList
from beam_volumes.precomputed.info import Json
from beam_volumes.sources import Source
from beam_volumes.spatial_index.destination import IndexTables
from beam_volumes.spatial_index.files import find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from beam_volumes.spatial_index.urls import parse_database_url
from beam_volumes.storage import Folder, join


@dataclass(frozen=True)
class FragmentSource:
    """A folder of fragments.

    Attributes:
        url: of the volume.
        folder: below it.
        mip: that was meshed.
        info: of the fragments.

    """

    url: str
    folder: str
    mip: int
    info: Json

    def cells_of(self, source: Source) -> tuple[FragmentFiles, Grid]:
        """Return the files, and the cells of the finest level of detail: one for each file.

        Surfaces meet in planes through centers of voxels: of the last voxels of a box where it reaches one voxel below,
        of the first of the next box where it reaches one above. In the second case objects that are closed at the
        volume's lower faces reach half a voxel beyond the first cells, and are moved into them.

        Raises:
            CorruptDataError: the `info` tells no boxes.

        """
        shape, bounds = self._task_shape(source), self._bounds(source)
        tasks = Grid(bounds, shape, bounds.start)
        low = int((self.info.get(OVERLAP) or {}).get(LOW, 0))
        x, y, z = (n - low for n in bounds.start)
        cubes = Box((x, y, z), bounds.stop)
        cells = Grid(cubes, shape, cubes.start)
        if len(cells) != len(tasks):
            raise CorruptDataError(
                f"{self.url}/{self.folder}/info: expected boxes that leave room for closed borders, came {shape} in a "
                f"volume of {bounds.shape}: forge the fragments again"
            )
        index = find_index_files(self.url, self.folder) if self.info.get("spatial_index") else None
        return FragmentFiles(join(self.url, self.folder), tasks, index, None), cells

    def check_database(self, database: str) -> list[str]:
        """Refuse a database that is not one of all of these fragments; return warnings, where nothing tells.

        Raises:
            VolumeError: it is one of fragments that were forged before, or lacks some; or it cannot be asked.

        """
        with _naming_the_option():
            tables = IndexTables(self.url, self.folder, parse_database_url(database))
            came = tables.mismatch(self.version)
            if came is None:
                return []
            advice = (
                f"load it anew with index_mesh --mesh_dir={self.folder} --overwrite, or leave --spatial_index_db out"
            )
            if not came:
                return [
                    f"--spatial_index_db: no {tables.report} beside the fragments tells what {tables.place} was loaded "
                    f"of: if it is not of these fragments as they are now, meshes lack parts; then {advice}"
                ]
            raise OptionError(f"--db: expected an index of these fragments in {tables.place}, came {came}: {advice}")

    def only_of(self, files: FragmentFiles, database: str, labels: list[int]) -> FragmentFiles:
        """Return those of `files` that hold one of `labels`, as a database of the spatial index tells.

        Raises:
            VolumeError: the database cannot be asked, or tells of other files.

        """
        index = files.index
        if index is None:
            raise OptionError(
                f"--spatial_index_db: expected fragments with a spatial index, but {self.url}/{self.folder}/info tells "
                "of none: leave the option out"
            )
        with _naming_the_option():
            found = SpatialIndex(index, parse_database_url(database)).files_of_labels(labels)
        if lacking := sorted(set(labels) - found.keys()):
            raise OptionError(
                f"--labels: expected labels that --spatial_index_db knows, came {lacking[0]} ({len(lacking)} in all "
                "are in no file): leave them out, or load the index again with index_mesh"
            )
        wanted = {index.grid.task_of(name) for names in found.values() for name in names}
        return replace(files, wanted=NumberList.of(wanted))

    @property
    def version(self) -> str:
        """A hash that changes when the fragments are forged anew; of other tools', when their `info` does."""
        return version_of(self.url, self.folder, self.info)

    def _bounds(self, source: Source) -> Box:
        """Return the voxels that were meshed."""
        if BOUNDS not in self.info:
            return source.box
        try:
            bounds = Box.of_lists(self.info[BOUNDS])
        except (TypeError, ValueError):
            bounds = Box((0, 0, 0), (0, 0, 0))
        if not bounds.voxels or not source.box.contains(bounds):
            raise CorruptDataError(
                f"{self.url}/{self.folder}/info: expected bounds within the volume, {source.box}, came "
                f"{self.info[BOUNDS]}: forge the fragments again"
            )
        return bounds

    def _task_shape(self, source: Source) -> Vec:
        """Return the shape of a task's box in voxels, from the spatial index, which all tools keep, or beside it."""
        index, shape = self.info.get("spatial_index"), self.info.get("chunk_size")
        try:
            if isinstance(index, dict):
                sizes = zip(index["chunk_size"], source.resolution_nm, strict=True)
                shape = [round(nm / resolution) for nm, resolution in sizes]
            x, y, z = (int(n) for n in shape or ())
        except (KeyError, TypeError, ValueError):
            x = y = z = 0
        if min(x, y, z) < 1:
            raise CorruptDataError(
                f"{self.url}/{self.folder}/info: expected the shape of the boxes, as chunk_size or in spatial_index, "
                "came neither: forge the fragments again"
            )
        return (x, y, z)


def find_fragments(url: str, folder: str) -> FragmentSource:
    """Return the fragments in a folder of a volume.

    Raises:
        OptionError: there are none.
        CorruptDataError: they are of no mip of the volume.

    """
    info = Folder(url).read_json(f"{folder}/info")
    if info is None or info.get("@type") != "neuroglancer_legacy_mesh" or not isinstance(info.get("mip"), int):
        came = "does not exist" if info is None else f"is of type {info.get('@type')}, mip {info.get('mip')}"
        raise OptionError(
            f"--fragments_dir: expected a folder of fragments, whose info is of type neuroglancer_legacy_mesh and "
            f"tells a mip, but {url}/{folder}/info {came}: make them with forge_mesh, or name their folder"
        )
    volume = Folder(url).read_json("info") or {}
    mips = len(volume.get("scales", ()))
    if not 0 <= info["mip"] < mips:
        raise CorruptDataError(
            f"{url}/{folder}/info: expected a mip of the volume, which has {mips}, came {info['mip']}: restore the "
            "file, or forge the fragments again"
        )
    return FragmentSource(url, folder, info["mip"], info)


@contextlib.contextmanager
def _naming_the_option() -> Iterator[None]:
    """Call the option of the database as it is called here."""
    try:
        yield
    except OptionError as error:
        raise OptionError(str(error).replace("--db:", "--spatial_index_db:")) from error


def version_of(url: str, folder: str, info: Json) -> str:
    """Return a hash that changes when a folder of fragments is made anew; of other tools', when its `info` does."""
    report = Folder(url).read_json(f"{folder}/report.json") or {}
    return hashlib.sha256(json.dumps([info, report.get("key")], sort_keys=True).encode()).hexdigest()[:16]
