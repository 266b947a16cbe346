"""Which model it is: a hub name says it with its revision, a folder only with its files."""

from __future__ import annotations

import hashlib
import json
import os

from trace_ray.config import StorageConfig
from trace_ray.staging import LOADED
from trace_ray.storage import fingerprints, locate


def model_identity(path: str, revision: str, storage: StorageConfig) -> str:
    """Returns ``path@revision`` of a hub model, or 16 hex digits over the files of a model folder.

    Of local files every byte counts, of those in S3 what one listing says: size and ETag.
    """
    if path.startswith("s3://"):
        stamps = [list(entry) for entry in locate(path, storage).entries() if entry.name.endswith(LOADED)]
    elif os.path.isdir(path):
        files = locate(path, storage).files()
        stamps = [[file.name, known] for file, known in zip(files, fingerprints(files), strict=True)]
    else:
        return f"{path}@{revision}" if path else ""
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
