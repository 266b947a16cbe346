"""Finds the corpus' files: paths, globs, folders (Hugging Face dataset folders too), hub ids; local or S3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch

import pyarrow.fs as pafs

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.kinds import SUFFIXES
from trace_ray.corpus.read import Source
from trace_ray.errors import UserError
from trace_ray.pairs import Split
from trace_ray.storage import Location, expand, locate

_SPLIT = re.compile(r"(train|test|validation|valid|dev|eval)(?![a-z])")
_HUB_ID = re.compile(r"(?:hf://)?(?:datasets/)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/(.*))?")
_DATASET_MARKS = ("README.md", "dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")


def corpus_sources(corpus: CorpusConfig, storage: StorageConfig) -> list[Source]:
    """Returns the corpus' files in order, training files first; where held-out files are named, these are all train."""
    train = find_files(corpus.paths, storage, "corpus.paths", "train")
    test = find_files(corpus.test_paths, storage, "corpus.test_paths", "test")
    rest = Split.TRAIN.value if test else ""
    kinds = [(place, rest) for place in train] + [(place, Split.TEST.value) for place in test]
    return [Source(place, i, split) for i, (place, split) in enumerate(kinds)]


def find_files(patterns: Sequence[str], storage: StorageConfig, setting: str, part: str) -> list[Location]:
    """Returns the files that paths, globs, folders and hub ids name, in a fixed order without repeats.

    Args:
        part: in a Hugging Face dataset, local or from the hub, the split that is taken (``train`` or ``test``).
    Raises: UserError where one names nothing.
    """
    found: dict[str, Location] = {}
    for pattern in patterns:
        found |= {place.path: place for place in _named(pattern, storage, setting, part)}
    return list(found.values())


def _named(pattern: str, storage: StorageConfig, setting: str, part: str) -> list[Location]:
    if not pattern.startswith("hf://"):
        place = locate(pattern, storage)
        if place.fs.get_file_info(place.path).type == pafs.FileType.Directory:
            return _in_folder(place, setting, part)
        if place.exists() or "://" in pattern or any(mark in pattern for mark in "*?["):
            return expand((pattern,), storage, setting)
    match = _HUB_ID.fullmatch(pattern)
    if not match:
        return expand((pattern,), storage, setting)
    return _from_hub(match[1], match[2] or "main", match[3] or "", setting, part)


def _in_folder(folder: Location, setting: str, part: str) -> list[Location]:
    selector = pafs.FileSelector(folder.path, recursive=True)
    infos = folder.fs.get_file_info(selector)
    names = sorted(i.path for i in infos if i.type == pafs.FileType.File and not _hidden(i.path, folder.path))
    data = [name for name in names if name.endswith(SUFFIXES) and name.rsplit("/", 1)[-1] not in _DATASET_MARKS]
    if any((folder / mark).exists() for mark in _DATASET_MARKS):
        data = _of_split(data, folder.path, part)
    if not data:
        raise UserError(setting, folder.uri, f"no data file for {part} below it; looked for {', '.join(SUFFIXES)}")
    return [Location(folder.fs, name) for name in data]


def _hidden(path: str, folder: str) -> bool:
    below = path[len(folder) :].strip("/")
    return any(piece.startswith((".", "_")) for piece in below.split("/"))


def _of_split(names: Sequence[str], folder: str, part: str) -> list[str]:
    """The files of one split: those that name it; where none does, those that name none (none: there is no such split)."""
    splits = {name: _split_named(name[len(folder) :].strip("/")) for name in names}
    return [n for n in names if splits[n] == part] or [n for n in names if not splits[n]]


def _split_named(name: str) -> str:
    """The split at the start of the file's own name, else of the folder's nearest to it; empty where none is named."""
    named = (_SPLIT.match(piece) for piece in reversed(name.split("/")))
    return next((match[1] for match in named if match), "")


def _from_hub(dataset: str, revision: str, wanted: str, setting: str, part: str) -> list[Location]:
    """Downloads a dataset's data files (all of the split, or those that a path or glob in it names) to the cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        names = sorted(HfApi().list_repo_files(dataset, revision=revision, repo_type="dataset"))
        data = [name for name in names if name.endswith(SUFFIXES) and name not in _DATASET_MARKS]
        if wanted:
            data = [n for n in data if fnmatch(n, wanted) or n.startswith(f"{wanted.rstrip('/')}/")]
        else:
            data = _of_split(data, "", part)
        files = [hf_hub_download(dataset, name, revision=revision, repo_type="dataset") for name in data]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        seen = " ".join(str(error).split())[:150]
        remedy = f"neither an existing file nor a dataset that the hub gives: {seen}"
        raise UserError(setting, dataset, remedy) from None
    if not files:
        raise UserError(setting, dataset, f"this dataset holds no data file for {part} ({', '.join(SUFFIXES)})")
    return [locate(file, StorageConfig()) for file in files]
