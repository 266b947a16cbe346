"""Finds the corpus' files: paths, globs, folders (Hugging Face dataset folders too), hub ids; local or S3."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch

import pyarrow.fs as pafs

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.folders import STATE, data_names, of_split
from trace_ray.corpus.kinds import SUFFIXES
from trace_ray.corpus.read import Source
from trace_ray.errors import UserError
from trace_ray.pairs import Split
from trace_ray.runtime.progress import warn
from trace_ray.storage.location import Location, expand, locate

_HUB_ID = re.compile(r"(?:hf://)?(?:datasets/)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/(.*))?")
_KEPT = re.compile(r"/datasets--(.+?)--(.+?)/snapshots/([0-9a-f]{40})/")
_SHOWN = 5


def corpus_sources(corpus: CorpusConfig, storage: StorageConfig) -> list[Source]:
    """Returns the corpus' files in order, training files first; where held-out files are named, these are all train.

    A file that is named as both is held out. That is said on the terminal, as are files of a folder that nothing reads.
    Raises: UserError where no training file is left.
    """
    unread: list[Location] = []
    train = find_files(corpus.paths, storage, "corpus.paths", "train", unread)
    test = find_files(corpus.test_paths, storage, "corpus.test_paths", "test")
    held_out = {_identity(place) for place in test}
    both = [place for place in train if _identity(place) in held_out]
    if both:
        warn(f"corpus.paths: {_listed(both)}: held out, since corpus.test_paths names the same")
        train = [place for place in train if place not in both]
        if not train:
            raise UserError("corpus.paths", list(corpus.paths), "all its files are in corpus.test_paths as well")
    if left := [place for place in unread if _identity(place) not in held_out | set(map(_identity, train))]:
        warn(f"corpus.paths: {_listed(left)}: beside the train split, not read")
    rest = Split.TRAIN.value if test else ""
    kinds = [(place, rest) for place in train] + [(place, Split.TEST.value) for place in test]
    return [Source(place, i, split) for i, (place, split) in enumerate(kinds)]


def hub_commits(sources: Sequence[Source]) -> dict[str, str]:
    """Returns {dataset of the hub: commit} of the files that were downloaded, told by where its client keeps them."""
    found = (_KEPT.search(source.place.path) for source in sources if source.place.is_local)
    return {f"{kept[1]}/{kept[2]}": kept[3] for kept in found if kept}


def _identity(place: Location) -> str:
    return os.path.realpath(place.path) if place.is_local else place.path


def _listed(places: Sequence[Location]) -> str:
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(place.name for place in places[:_SHOWN]) + more


def find_files(
    patterns: Sequence[str], storage: StorageConfig, setting: str, part: str, unread: list[Location] | None = None
) -> list[Location]:
    """Returns the files that paths, globs, folders and hub ids name, in a fixed order without repeats.

    Args:
        part: of a folder or a dataset of the hub whose files name splits, the one that is taken (``train`` or ``test``).
        unread: gets the data files of folders that are not taken.
    Raises: UserError where one names nothing.
    """
    found: dict[str, Location] = {}
    for pattern in patterns:
        found |= {
            place.path: place for place in _named(pattern, storage, setting, part, [] if unread is None else unread)
        }
    return list(found.values())


def _named(pattern: str, storage: StorageConfig, setting: str, part: str, unread: list[Location]) -> list[Location]:
    if not pattern.startswith("hf://"):
        place = locate(pattern, storage)
        if place.fs.get_file_info(place.path).type == pafs.FileType.Directory:
            return _in_folder(place, setting, part, unread)
        if place.exists() or "://" in pattern or any(mark in pattern for mark in "*?["):
            return expand((pattern,), storage, setting)
    match = _HUB_ID.fullmatch(pattern)
    if not match:
        return expand((pattern,), storage, setting)
    return _from_hub(match[1], match[2] or "main", match[3] or "", setting, part)


def _in_folder(folder: Location, setting: str, part: str, unread: list[Location]) -> list[Location]:
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    start = len(folder.path.rstrip("/")) + 1
    names = sorted(info.path[start:] for info in infos if info.type == pafs.FileType.File)
    data = data_names(names, _saved(folder, names))
    if not data:
        raise UserError(setting, folder.uri, f"no data file for {part} below it; looked for {', '.join(SUFFIXES)}")
    taken = of_split(data, part)
    rest = [folder / name for name in data if name not in taken]
    if not taken:
        raise UserError(
            setting, folder.uri, f"no data file for {part} below it but {_listed(rest)}: name the file itself"
        )
    unread += rest
    return [folder / name for name in taken]


def _saved(folder: Location, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns {folder: its data files} of what `datasets` saved to disk."""
    found: dict[str, list[str]] = {}
    for name in names:
        base, _, own = name.rpartition("/")
        if own == STATE:
            try:
                state = json.loads((folder / name).read_bytes())
                found[base] = [str(file["filename"]) for file in state["_data_files"]]
            except (ValueError, KeyError, TypeError):  # another's file of that name
                continue
    return found


def _from_hub(dataset: str, revision: str, wanted: str, setting: str, part: str) -> list[Location]:
    """Downloads a dataset's data files (all of the split, or those that a path or glob in it names) to the cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        # A branch may move between two files: all are taken of the commit that it stands for now.
        revision = HfApi().dataset_info(dataset, revision=revision).sha or revision
        names = sorted(HfApi().list_repo_files(dataset, revision=revision, repo_type="dataset"))
        data = data_names(names, {})
        if wanted:
            data = [n for n in data if fnmatch(n, wanted) or n.startswith(f"{wanted.rstrip('/')}/")]
        else:
            data = of_split(data, part)
        files = [hf_hub_download(dataset, name, revision=revision, repo_type="dataset") for name in data]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        seen = " ".join(str(error).split())[:150]
        remedy = f"neither an existing file nor a dataset that the hub gives: {seen}"
        raise UserError(setting, dataset, remedy) from None
    if not files:
        raise UserError(setting, dataset, f"this dataset holds no data file for {part} ({', '.join(SUFFIXES)})")
    return [locate(file, StorageConfig()) for file in files]
