"""Objects in Google Cloud Storage (or its emulator: STORAGE_EMULATOR_HOST)."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO

from beam_volumes.errors import OptionError
from beam_volumes.storage.remote import (
    CREATOR,
    RemotePending,
    credentials_failure,
    http_failure,
    in_parallel,
    local_failure,
    network_failure,
)
from beam_volumes.storage.store import Attributes, Entry, Failure, is_temporary

_PART_BYTES = 32 << 20
"""Of a resumable upload, one of them in memory; a multiple of 256 KiB, as the protocol wants."""

_TIMEOUT_S = 300


class GcsStore:
    """The objects below `url`."""

    def __init__(self, url: str) -> None:
        self._bucket, _, path = url.removeprefix("gs://").partition("/")
        self._prefix = f"{path}/" if path else ""

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes as they are stored, or None where there is none."""
        return self._get(name)

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes from `start`, fewer at the end, or None where there is no such object."""
        return self._get(name, start=start, end=start + length - 1)

    def size(self, name: str) -> int | None:
        """Return an object's bytes."""
        blob = self._found(name)
        return None if blob is None else int(blob.size)

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with `prefix`, sorted; placeholders of folders are none."""
        return (entry.name for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects whose names start with `prefix`, with their checksums; placeholders of folders are none."""
        start = len(self._prefix)
        for blob in self._blobs(prefix, "items(name,size,crc32c),nextPageToken"):
            if not blob.name.endswith("/"):
                checksum = int.from_bytes(base64.b64decode(blob.crc32c), "big") if blob.crc32c else None
                yield Entry(blob.name[start:], int(blob.size), checksum)

    def write(self, name: str, data: bytes, attributes: Attributes) -> None:
        """Write an object."""
        blob = self._blob(name, attributes)
        blob.upload_from_string(data, content_type=attributes.content_type, timeout=_TIMEOUT_S)

    def begin(self, name: str, attributes: Attributes) -> RemotePending:
        """Start a file that is uploaded when it is complete."""
        return RemotePending(partial(self._upload, name, attributes))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object where none is; return False where one is."""
        mark = uuid.uuid4().hex
        blob = self._blob(name, Attributes(cache_control="no-cache"))
        blob.metadata = {CREATOR: mark}
        try:
            blob.upload_from_string(data, if_generation_match=0, timeout=_TIMEOUT_S)
        except _exceptions().PreconditionFailed:
            # The client asks again when an answer was lost: then what stands there is this one's.
            found = self._found(name)
            return found is not None and (found.metadata or {}).get(CREATOR) == mark
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""
        self._delete(self._prefix + name for name in names)

    def delete_folder(self, prefix: str) -> None:
        """Remove every object below `prefix`."""
        self._delete(self._keys(f"{prefix}/" if prefix else ""))

    def delete_abandoned(self, prefix: str) -> None:
        """Remove temporary files; unfinished uploads are not stored and end by themselves."""
        self._delete(key for key in self._keys(f"{prefix}/" if prefix else "") if is_temporary(key))

    def prune(self, prefix: str) -> None:
        """Do nothing: a folder is but a part of names."""

    def explain(self, error: Exception) -> Failure | None:
        """Tell why Cloud Storage, or the way to it, failed."""
        if not _is_installed():
            return None
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        if isinstance(error, _exceptions().GoogleAPICallError):
            return http_failure(error.code or 0, type(error).__name__)
        if isinstance(error, InvalidResponse):
            return http_failure(error.response.status_code, type(error).__name__)
        if isinstance(error, GoogleAuthError):
            return credentials_failure(error)
        if isinstance(error, _exceptions().GoogleAPIError | DataCorruption):
            return network_failure(error)
        return local_failure(error) if isinstance(error, OSError) else None

    def _blob(self, name: str, attributes: Attributes | None = None) -> Any:
        bucket = _client().bucket(self._bucket)
        blob = bucket.blob(self._prefix + name, chunk_size=_PART_BYTES if attributes else None)
        if attributes:
            blob.content_encoding, blob.cache_control = attributes.content_encoding, attributes.cache_control
        return blob

    def _found(self, name: str) -> Any:
        return _client().bucket(self._bucket).get_blob(self._prefix + name, timeout=_TIMEOUT_S)

    def _get(self, name: str, **arguments: int) -> bytes | None:
        blob = self._blob(name)
        try:
            # Raw: otherwise a file with Content-Encoding comes decompressed, and its checksum is not checked.
            data: bytes = blob.download_as_bytes(raw_download=True, timeout=_TIMEOUT_S, **arguments)
        except _exceptions().NotFound:
            return None
        except _exceptions().RequestRangeNotSatisfiable:
            return b""
        return data

    def _keys(self, prefix: str) -> Iterator[str]:
        return (blob.name for blob in self._blobs(prefix, "items(name),nextPageToken"))

    def _blobs(self, prefix: str, fields: str) -> Iterator[Any]:
        found = _client().list_blobs(self._bucket, prefix=self._prefix + prefix, fields=fields, timeout=_TIMEOUT_S)
        yield from found

    def _upload(self, name: str, attributes: Attributes, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        blob = self._blob(name, attributes)
        blob.upload_from_file(file, size=size, content_type=attributes.content_type, timeout=_TIMEOUT_S)

    def _delete(self, keys: Iterable[str]) -> None:
        for _ in in_parallel(self._delete_one, keys):
            pass

    def _delete_one(self, key: str) -> None:
        bucket = _client().bucket(self._bucket)
        try:
            bucket.delete_blob(key, timeout=_TIMEOUT_S)
        except _exceptions().NotFound:
            return


def _client() -> Any:
    return _client_of_process(os.getpid())


@lru_cache(maxsize=1)
def _client_of_process(pid: int) -> Any:
    """Return this process's client: after a fork the parent's connections must not be used."""
    if not _is_installed():
        raise OptionError(
            "gs://: expected the package google-cloud-storage, which is not installed: pip install 'beam-volumes[gcp]'"
        )
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        # No operation here needs a project.
        return storage.Client(project=None)
    except DefaultCredentialsError:
        # Public buckets can be read by anybody.
        return storage.Client.create_anonymous_client()


def _is_installed() -> bool:
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError:
        return False
    return True


def _exceptions() -> Any:
    from google.api_core import exceptions

    return exceptions
