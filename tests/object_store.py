"""An object store on this machine, which speaks as S3 does."""

import contextlib
import os
from collections.abc import Iterator

import boto3
import pytest
from cloudfiles.interfaces import reset_connection_pools
from moto.server import ThreadedMotoServer

from beam_volumes.storage import Folder, s3


@contextlib.contextmanager
def running_store(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[str]:
    """Run a store with one bucket, which all that asks S3 finds; its URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        # CloudVolume does not take keys from variables without it.
        "AWS_SESSION_TOKEN": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    _forget_clients()
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    client.close()
    yield f"s3://{bucket}"
    Folder(f"s3://{bucket}").delete_folder("")
    s3._client().close()
    _forget_clients()
    server.stop()


def _forget_clients() -> None:
    """Those of this project and of CloudVolume know the address of the server of another test."""
    s3._client_of_process.cache_clear()
    reset_connection_pools()
