"""Which model judged: a hub name says it with its revision, a local folder only with its files."""

from __future__ import annotations

import hashlib
import os

from trace_ray.config import JudgeConfig, StorageConfig
from trace_ray.storage import locate


def model_identity(judge: JudgeConfig) -> str:
    """Returns ``name@revision`` of a hub model, or 16 hex digits over the files of a model folder."""
    if not os.path.isdir(judge.model):
        return f"{judge.model}@{judge.revision}" if judge.model else ""
    files = locate(judge.model, StorageConfig()).files()
    stamps = [f"{file.name} {file.fingerprint()}" for file in files]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]
