"""Objects in S3, or in a store that speaks its protocol (AWS_ENDPOINT_URL)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO

from beam_volumes.errors import DestinationError
from beam_volumes.storage.remote import (
    CREATOR,
    TRIES,
    RemotePending,
    batches,
    credentials_failure,
    http_failure,
    local_failure,
    network_failure,
    retried,
)
from beam_volumes.storage.store import Attributes, Entry, Failure, is_temporary

_PART_BYTES = 8 << 20
"""Of an upload, ten of them in memory; S3 takes at most 10,000 parts."""

_DELETED_AT_ONCE = 1000
_MISSING = ("NoSuchKey", "404", "NotFound")
_CONFLICT = "ConditionalRequestConflict"
_TAKEN = ("PreconditionFailed", "412")


class S3Store:
    """The objects below `url`."""

    def __init__(self, url: str) -> None:
        self._bucket, _, path = url.removeprefix("s3://").partition("/")
        self._prefix = f"{path}/" if path else ""

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes as they are stored, or None where there is none."""
        return self._get(name)

    def read_range(self, name: str, start: int, length: int) -> bytes | None:
        """Return `length` bytes from `start`, fewer at the end, or None where there is no such object."""
        return self._get(name, Range=f"bytes={start}-{start + length - 1}")

    def size(self, name: str) -> int | None:
        """Return an object's bytes."""
        head = self._head(name)
        return None if head is None else int(head["ContentLength"])

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with `prefix`, sorted; placeholders of folders are none."""
        return (entry.name for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects whose names start with `prefix`; placeholders of folders are none."""
        start = len(self._prefix)
        for found in self._found(prefix):
            if not found["Key"].endswith("/"):
                yield Entry(found["Key"][start:], int(found["Size"]), None)

    def write(self, name: str, data: bytes, attributes: Attributes) -> None:
        """Write an object."""
        _client().put_object(**self._object(name), Body=data, **_arguments(attributes))

    def begin(self, name: str, attributes: Attributes) -> RemotePending:
        """Start a file that is uploaded in parts when it is complete."""
        return RemotePending(partial(self._upload, name, attributes))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object where none is; return False where one is."""
        mark = uuid.uuid4().hex
        for attempt in range(TRIES):
            try:
                _client().put_object(**self._object(name), Body=data, IfNoneMatch="*", Metadata={CREATOR: mark})
            except _exceptions().ClientError as error:
                code = error.response["Error"]["Code"]
                # A conflict: two asked at the same moment, and neither may have won.
                if code == _CONFLICT and attempt < TRIES - 1:
                    continue
                if code not in _TAKEN:
                    raise
                head = self._head(name)
                return head is not None and head["Metadata"].get(CREATOR) == mark
            return True
        return False

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""
        self._delete(self._prefix + name for name in names)

    def delete_folder(self, prefix: str) -> None:
        """Remove every object below `prefix`, and unfinished uploads."""
        below = f"{prefix}/" if prefix else ""
        self._delete(self._keys(below))
        self.delete_abandoned(prefix)

    def delete_abandoned(self, prefix: str) -> None:
        """End unfinished uploads, whose parts are paid for though they are not seen; remove temporary files."""
        below = f"{prefix}/" if prefix else ""
        self._delete(key for key in self._keys(below) if is_temporary(key))
        pages = _client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + below):
            for upload in page.get("Uploads", []):
                _client().abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def prune(self, prefix: str) -> None:
        """Do nothing: a folder is but a part of names."""

    def explain(self, error: Exception) -> Failure | None:
        """Tell why S3, or the way to it, failed."""
        if isinstance(error, _exceptions().ClientError):
            return _client_failure(error)
        if isinstance(error, _exceptions().NoCredentialsError | _exceptions().PartialCredentialsError):
            return credentials_failure(error)
        if isinstance(error, (_exceptions().BotoCoreError, _boto3_error())):
            return network_failure(error)
        return local_failure(error) if isinstance(error, OSError) else None

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _get(self, name: str, **arguments: str) -> bytes | None:
        def get() -> bytes | None:
            try:
                data: bytes = _client().get_object(**self._object(name), **arguments)["Body"].read()
            except _exceptions().ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "InvalidRange":
                    return b""
                if code in _MISSING:
                    return None
                raise
            return data

        # The client tries requests again, but not the reading of an answer.
        return retried(get, (_exceptions().IncompleteReadError, _exceptions().HTTPClientError))

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = _client().head_object(**self._object(name))
        except _exceptions().ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise
        return head

    def _keys(self, prefix: str) -> Iterator[str]:
        return (found["Key"] for found in self._found(prefix))

    def _found(self, prefix: str) -> Iterator[dict[str, Any]]:
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
            yield from page.get("Contents", [])

    def _upload(self, name: str, attributes: Attributes, file: BinaryIO) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
        place = self._object(name)
        _client().upload_fileobj(
            _Unclosed(file), place["Bucket"], place["Key"], ExtraArgs=_arguments(attributes), Config=config
        )

    def _delete(self, keys: Iterable[str]) -> None:
        for batch in batches(keys, _DELETED_AT_ONCE):
            request = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            failed = _client().delete_objects(Bucket=self._bucket, Delete=request).get("Errors", [])
            if failed:
                raise DestinationError(
                    f"s3://{self._bucket}/{failed[0].get('Key')}: expected to delete {len(batch)} objects, came "
                    f"{failed[0].get('Code')} for {len(failed)} of them: give this account the right to delete"
                )


class _Unclosed:
    """A file that stays open after its upload, for its owner to close."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell, self.seekable = file.read, file.seek, file.tell, file.seekable

    def close(self) -> None:
        """Stay open."""


def _arguments(attributes: Attributes) -> dict[str, str]:
    given = {
        "ContentType": attributes.content_type,
        "ContentEncoding": attributes.content_encoding,
        "CacheControl": attributes.cache_control,
    }
    return {key: value for key, value in given.items() if value is not None}


def _client_failure(error: Any) -> Failure:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return http_failure(status, f"{error.response['Error'].get('Code')} ({error.operation_name})")


def _client() -> Any:
    return _client_of_process(os.getpid())


@lru_cache(maxsize=1)
def _client_of_process(pid: int) -> Any:
    """Return this process's client: after a fork the parent's connections must not be used."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    # A session of its own: the default one is not safe in threads.
    session = boto3.session.Session()
    config = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=16)
    if session.get_credentials() is None:
        # Public buckets can be read by anybody.
        config = config.merge(Config(signature_version=UNSIGNED))
    return session.client("s3", config=config)


def _exceptions() -> Any:
    import botocore.exceptions

    return botocore.exceptions


def _boto3_error() -> Any:
    import boto3.exceptions

    return boto3.exceptions.Boto3Error
