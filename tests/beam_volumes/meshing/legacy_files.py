"""Fragments as other tools keep them: files that `legacy` reads, and the way back from those that it writes."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import brotli

from beam_volumes import map_buffer
from beam_volumes.meshing import legacy
from beam_volumes.meshing.mesh import Mesh
from beam_volumes.storage import Folder, local_path


def write_fragments(
    folder: Folder, name: str, meshes: Iterable[tuple[int, Mesh]], resolution_nm: legacy.Resolution, compression: str
) -> None:
    packed = {
        label: map_buffer.pack_value(legacy.encode_mesh(mesh, resolution_nm), compression) for label, mesh in meshes
    }
    folder.write(name, map_buffer.join_packed(packed, compression))


def read_fragment(folder: Folder, name: str, resolution_nm: legacy.Resolution) -> Mesh:
    """Return the mesh in a file of its own; `name` is that of a manifest, or as the disk lists it."""
    return legacy.decode_mesh(_read(folder, name), resolution_nm, name)


def read_manifest(folder: Folder, label: int) -> list[str]:
    fragments: list[str] = json.loads(_read(folder, f"{label}:0"))["fragments"]
    return fragments


def _read(folder: Folder, name: str) -> bytes:
    here = local_path(folder.url)
    [path] = [p for p in (Path(here / f"{name}{extension}") for extension in ("", ".gz", ".br")) if p.exists()]
    data = path.read_bytes()
    return {".gz": gzip.decompress, ".br": brotli.decompress}.get(path.suffix, bytes)(data)
