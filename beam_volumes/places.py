"""The places that a command names: what they are, who can write to them, and who can reach them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from beam_volumes.errors import OptionError
from beam_volumes.graphene import GrapheneTable, find_token
from beam_volumes.source_checks import is_on_this_machine
from beam_volumes.sources import Source
from beam_volumes.storage import is_local, local_path, normalize

_GRAPHENE = "graphene://"


def is_proofreading(url: str) -> bool:
    """Whether `url` names a volume that a PyChunkGraph serves."""
    return url.startswith(_GRAPHENE)


def writable(option: str, url: str) -> str:
    """Return the normalized form of `url`, the value of `option`.

    Raises:
        OptionError: nothing can be written there.

    """
    try:
        place = normalize(url)
    except OptionError as error:
        raise OptionError(f"--{option}: {error}") from None
    if place.startswith(("https://", "http://")):
        raise OptionError(
            f"--{option}: expected a place to write to, came {place}, where one can only read: "
            "choose a local path, gs://bucket/path or s3://bucket/path"
        )
    return place


def scratch_folder(url: str | None) -> str | None:
    """Return the normalized form of `--scratch`, None for None.

    Raises:
        OptionError: nothing can be written there; or it is on this machine, is no folder, and could not become one
            without another: one of the names is mistyped.

    """
    if url is None:
        return None
    place = writable("scratch", url)
    if not is_local(place):
        return place
    path = local_path(place)
    if path.exists() and not path.is_dir():
        raise OptionError(f"--scratch: expected a folder, came {path}, which is a file: name another place")
    if not path.parent.is_dir():
        raise OptionError(
            f"--scratch: expected a folder, or a new one in a folder that is there, came {path}, but there is no "
            f"{path.parent}: correct the name, or make that folder"
        )
    return place


def destination(url: str, source: Source) -> str:
    """Return the normalized form of `--dst`.

    Raises:
        OptionError: nothing can be written there, or the source stands there or around it.

    """
    place = writable("dst", url)
    here = _resolved(place)
    for there in (_resolved(source.url), _resolved(source.voxels_url)):
        if here == there:
            raise OptionError(f"--dst: expected another place than --src, came {place}: a volume cannot replace itself")
        if here.startswith(f"{there}/"):
            raise OptionError(f"--dst: expected a place outside of --src, came {place}, which is within {there}")
    return place


def _check_reachable(option: str, url: str) -> None:
    """Refuse a place on this machine, for a job whose workers are others.

    Raises:
        OptionError: `url`, which stands in `option` or behind it, is such a place.

    """
    if is_on_this_machine(url):
        raise OptionError(
            f"--{option}: expected a place that every worker of --runner reaches, such as gs:// or s3://, came {url}, "
            "which is on this machine: name another place, or run here, without --runner"
        )


def check_for_workers(places: Iterable[tuple[str, str | None]], token_env: str | None) -> None:
    """Refuse what only this machine has, for a job whose workers are others.

    Args:
        places: options, and the locations that they name.
        token_env: where the token of a proofreading volume is found.

    Raises:
        OptionError: a place, or the token, is on this machine.

    """
    for option, url in places:
        if url is not None:
            _check_reachable(option, url)
        if url is not None and is_proofreading(url):
            _check_token_reachable(url, token_env)


def _check_token_reachable(url: str, token_env: str | None) -> None:
    if token_env is not None and "/" in token_env:
        return
    if token_env is None:
        token = find_token(GrapheneTable.parse(url), None)
        if token is None:
            return
        came = token.source
    else:
        came = "the name of an environment variable"
    raise OptionError(
        f"--token_env: expected a secret that every worker of --runner can read, projects/P/secrets/S, came {came}, "
        "which is on this machine only: put the token into Secret Manager, and name the secret"
    )


def _resolved(url: str) -> str:
    """Return the one name of a place, whatever the format of what is there and whatever links lead to it."""
    try:
        place = normalize(re.sub(r"^(precomputed|zarr\d?|n5)://", "", url))
    except OptionError:
        return url
    return os.path.realpath(local_path(place)) if is_local(place) else place
