"""Makes a copy on this node once, whatever number of processes ask: model weights and adapters in S3, rows to train on."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from trace_ray.errors import UserError
from trace_ray.storage.location import Location, locate
from trace_ray.storage.settings import StorageConfig

STORAGE_VARIABLE = "TRACE_RAY_STORAGE"
"""Carries the run's StorageConfig, which holds no secret, to every process of the run."""

LOADED = (".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".md")
"""What is copied of a folder: no pickled weights, no code."""

_UNUSED_DAYS = 7


def share_settings(storage: StorageConfig) -> None:
    """Tells this process, and through its environment its workers, how S3 is reached."""
    os.environ[STORAGE_VARIABLE] = json.dumps(asdict(storage))


def shared_settings() -> StorageConfig:
    """Returns what ``share_settings`` told; the defaults where it told nothing."""
    return StorageConfig(**json.loads(os.environ.get(STORAGE_VARIABLE, "{}")))


def local_model(path: str, *, weights: bool = True) -> str:
    """Returns a path that transformers and vLLM can load: this node's copy of an s3:// folder, all else as it is.

    Args:
        weights: whether they are wanted too.
    """
    return stage(locate(path, shared_settings()), weights=weights) if path.startswith("s3://") else path


def stage(place: Location, *, weights: bool = True) -> str:
    """Returns the local copy of the files directly in ``place``, made by the first process of this node that asks.

    Files that changed since give a new copy; copies unused for a week are removed.
    Raises: UserError where nothing to load is there.
    """
    wanted = LOADED if weights else tuple(ending for ending in LOADED if ending != ".safetensors")
    listing = [entry for entry in place.entries() if entry.name.endswith(wanted)]
    if not listing:
        raise UserError("URI", place.uri, "no model there: a folder with config.json and safetensors files is wanted")

    def copy(folder: Path) -> None:
        for entry in listing:
            (place / entry.name).download(folder / entry.name)
            if (folder / entry.name).stat().st_size != entry.size:
                raise OSError(f"{(place / entry.name).uri}: changed or cut short while it was copied")

    return str(made_once(json.dumps([place.uri, listing]), copy))


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder of this node's copies that ``make`` filled, whatever number of processes ask; those wait for one.

    Args:
        name: says all that the content depends on.
        make: fills an empty folder, which becomes the copy when it is whole.
    """
    root = cache_folder()
    key = hashlib.sha256(name.encode()).hexdigest()[:24]
    copy = root / key
    with _lock(root / f"{key}.lock"):
        if not copy.is_dir():
            _remove_unused(root)
            partial = root / f".{key}.{uuid.uuid4().hex}"
            partial.mkdir()
            try:
                make(partial)
                partial.rename(copy)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        os.utime(copy)
    return copy


@contextmanager
def download_folder(place: Location) -> Iterator[str]:
    """Gives a local folder with the files of ``place``: the folder itself where it is local, else this node's copy."""
    yield place.path if place.is_local else stage(place)


def plain_path(path: str) -> str:
    """Returns ``path``, or a link to that folder where ``glob`` would take its name for a pattern: vLLM finds weights so."""
    if glob.escape(path) == path or not os.path.isdir(path):
        return path
    target = os.path.abspath(path)
    link = cache_folder() / f"link-{hashlib.sha256(target.encode()).hexdigest()[:24]}"
    fresh = link.with_name(f".{link.name}.{uuid.uuid4().hex}")
    fresh.symlink_to(target, target_is_directory=True)
    fresh.replace(link)
    return str(link)


def cache_folder() -> Path:
    """Returns this node's folder of copies, made where it is missing: the one that is named, else one in the home.

    Where the home cannot be written, as in many containers, it is one for temporary files that this user alone can write.
    """
    if named := shared_settings().cache or os.environ.get("TRACE_RAY_CACHE", ""):
        root = Path(named).expanduser()
        root.mkdir(parents=True, exist_ok=True)
        return root
    return home_cache() or _temporary_cache()


def home_cache() -> Path | None:
    """Returns the folder of copies in the user's home, or None where there is no home or none that can be written."""
    try:
        root = Path.home() / ".cache" / "trace-ray"
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user whom the system does not know
        return None
    return root if os.access(root, os.W_OK) else None


def _temporary_cache() -> Path:
    root = Path(tempfile.gettempdir()) / f"trace-ray-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            "TRACE_RAY_CACHE", root, "others can write there, and the home cannot be written: name a folder"
        )
    return root


def _remove_unused(root: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 86400
    for copy in root.iterdir():
        if copy.is_dir() and not copy.is_symlink() and copy.stat().st_mtime < oldest:
            shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock among this node's processes; the kernel frees it when its holder dies."""
    # filelock holds the same lock, but looks for it every 50 ms: woken after 16 to 36 ms, here after 0.1 to 5.
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
