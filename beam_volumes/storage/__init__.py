"""Files at a URL: on a local disk, in Google Cloud Storage, in S3, or (to read) behind a web server."""

from beam_volumes.storage.folder import Folder
from beam_volumes.storage.urls import is_local, join, local_path, normalize, stored_name

__all__ = ["Folder", "is_local", "join", "local_path", "normalize", "stored_name"]
