"""Which model it is: a hub name says it with its revision, a folder only with its files."""

from __future__ import annotations

import hashlib
import json
import os
import re

from trace_ray.config import StorageConfig
from trace_ray.runtime.passing import answered
from trace_ray.storage.location import Location, fingerprints, locate
from trace_ray.storage.staging import LOADED

_WORDS = (".md", ".gitattributes")
"""Endings of files that no library loads."""

_GENERATION = "generation_config.json"
_DECIDES = (
    *("bos_token_id", "eos_token_id", "stop_strings", "max_length", "max_new_tokens", "min_length", "min_new_tokens"),
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
"""What of a generation config changes a greedy answer; a temperature without do_sample may be mended in mid-run."""


def model_identity(path: str, revision: str, storage: StorageConfig) -> str:
    """Returns ``path@revision`` of a hub model, or 16 hex digits over the files of a model folder.

    Of local files every byte counts, of those in S3 what one listing says: size and ETag. Model cards do not count, and
    of generation_config.json what changes a greedy answer.
    """
    place = locate(path, storage) if path.startswith("s3://") or os.path.isdir(path) else None
    if place is None:
        return f"{path}@{revision}" if path else ""
    loaded = [e for e in place.entries() if not e.name.endswith(_WORDS) and (place.is_local or e.name.endswith(LOADED))]
    stamps: list[list[object]] = [[e.name, _decisions(place / e.name)] for e in loaded if e.name == _GENERATION]
    others = [entry for entry in loaded if entry.name != _GENERATION]
    if place.is_local:
        known = fingerprints([place / entry.name for entry in others])
        stamps += [[entry.name, stamp] for entry, stamp in zip(others, known, strict=True)]
    else:
        stamps += [list(entry) for entry in others]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _decisions(file: Location) -> object:
    """What of a generation config counts; all of one that cannot be read."""
    try:
        stored = json.loads(file.read_text())
    except ValueError:
        return file.fingerprint()
    return {name: stored.get(name) for name in _DECIDES} if isinstance(stored, dict) else file.fingerprint()


def commit_of(model: str, revision: str) -> str | None:
    """Returns the commit that a hub's branch or tag stands for: by the hub, else by this machine's copies; None if neither.

    Raises: what the hub's client raises where it answers neither yes nor no.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants

    commit = answered(lambda: HfApi().model_info(model, revision=revision, timeout=10).sha)
    if commit is not None:
        return commit
    kept = os.path.join(constants.HF_HUB_CACHE, f"models--{model.replace('/', '--')}", "refs", revision)
    if not os.path.isfile(kept):
        return None
    with open(kept, encoding="utf-8") as file:
        return file.read().strip()
