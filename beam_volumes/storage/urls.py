"""Locations as CloudVolume takes them: file://, gs://, s3://, https://, and plain local paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

from beam_volumes.errors import OptionError

SCHEMES = ("file", "gs", "s3", "https", "http")

_EXTENSIONS = {"gzip": ".gz", "br": ".br", "none": ""}
"""What CloudFiles appends to a compressed file's name on a disk, which has no Content-Encoding."""


def normalize(url: str) -> str:
    """Return the one form of a location: `file:///absolute/path`, `gs://bucket/path`, ...; no slash at its end.

    A leading `precomputed://` is dropped; `~` is the home folder, as in CloudVolume.

    Raises:
        OptionError: the location is empty, of an unknown scheme, or has a part that is not kept.

    """
    text = url.strip().removeprefix("precomputed://")
    scheme, separator, path = text.partition("://")
    if not separator:
        scheme, path = "file", text
    if scheme not in SCHEMES or not path or (scheme != "file" and not path.strip("/")):
        raise OptionError(
            f"{without_secrets(url)!r}: expected a local path, file:///path, gs://bucket/path, s3://bucket/path or "
            "https://host/path: give one of these"
        )
    if scheme == "file":
        return f"file://{os.path.abspath(os.path.expanduser(path))}"
    check_public(text)
    return f"{scheme}://{path.strip('/')}"


def split_schemes(url: str) -> tuple[list[str], str]:
    """Return the schemes that a location begins with and the rest: `zarr://gs://a/b` is (["zarr", "gs"], "a/b")."""
    text = url.strip()
    schemes = re.match(r"(?:[A-Za-z][\w+.-]*://)*", text, re.ASCII)[0]  # type: ignore[index]
    return schemes.split("://")[:-1], text[len(schemes) :]


def check_public(url: str) -> None:
    """Refuse a location, with whatever schemes before it, that holds a password, a query or a fragment.

    Raises:
        OptionError: it does; what may be secret is not shown.

    """
    schemes, rest = split_schemes(url)
    if not schemes or schemes[-1] == "file":
        return
    authority = rest.partition("/")[0]
    # A password with a slash in it looks like a port that is no number.
    is_web = schemes[-1].lower().endswith(("http", "https"))
    strange = is_web and (re.search(r"[?#]", rest) or not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", authority))
    if "@" in authority or strange:
        raise OptionError(
            f"{without_secrets(url)}: expected a plain address, came one with a query or a password, which cannot be "
            "kept secret in a volume's records: use a public address, or gs:// or s3:// with credentials"
        )


def is_local(url: str) -> bool:
    """Whether a normalized URL is on this machine's file system."""
    return url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a normalized `file://` URL.

    Raises:
        OptionError: the URL is another one.

    """
    if not is_local(url):
        raise OptionError(f"{url}: expected a local path or file:///path, came a place elsewhere: give a local one")
    return Path(url.removeprefix("file://"))


def join(url: str, *names: str) -> str:
    """Return the URL of a name below `url`; empty names count for nothing."""
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names if name.strip("/"))])


def stored_name(url: str, name: str, compression: str) -> str:
    """Return the name under which a file compressed with `compression` (gzip, br or none) stands at `url`.

    On a disk the name says how it is compressed, elsewhere Content-Encoding does; this is CloudFiles' convention:
    https://github.com/seung-lab/cloud-files.
    """
    return name + _EXTENSIONS[compression] if is_local(url) else name


def without_secrets(url: str) -> str:
    """Return a location up to what may be secret."""
    schemes, rest = split_schemes(url)
    authority = rest.partition("/")[0]
    if "@" in rest or ":" in authority:
        return f"{'://'.join([*schemes, ''])}..."
    return re.sub(r"([?#]).*", r"\1...", url, flags=re.DOTALL)


def redacted(text: str) -> str:
    """Return an error's text without what may be a secret: queries and passwords of URLs, tokens."""
    text = re.sub(r"\?[^\s'\"<>)]+", "?...", text)
    text = re.sub(r"//[^/\s@]+@", "//...@", text)
    return re.sub(r"(?i)\b(authorization|bearer|basic|token)\b[:=\s]+((bearer|basic)\s+)?[^\s,;]+", r"\1 ...", text)
