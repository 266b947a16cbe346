"""Which files of a folder, or of a dataset on the hub, are data, and of which split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from trace_ray.corpus.kinds import SUFFIXES

MARKS = ("README.md", "dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")
"""Files about the data, as `datasets` writes them."""

STATE = "state.json"

_ABOUT = (*MARKS, "metadata.json", "config.json", "manifest.json")
_CACHE = "cache-*.arrow"
"""What a map or filter of `datasets` leaves beside the data: other rows, or the same again."""

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_WORDS = {word: split for split, words in _SPLITS.items() for word in words}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def data_names(names: Sequence[str], saved: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the names of data files.

    Args:
        names: paths below the folder; hidden ones (``.x``, ``_x``) are left out.
        saved: {folder: the files that its ``state.json`` lists}: no others of that folder are data.
    """
    return [name for name in names if _is_data(name, saved)]


def _is_data(name: str, saved: Mapping[str, Sequence[str]]) -> bool:
    folder, _, own = name.rpartition("/")
    if any(piece.startswith((".", "_")) for piece in name.split("/")) or own in _ABOUT or fnmatch(own, _CACHE):
        return False
    return own in saved[folder] if folder in saved else own.lower().endswith(SUFFIXES)


def of_split(names: Sequence[str], part: str) -> list[str]:
    """Returns the files of one split: those that name it; where none does, those that name none, which may be nothing."""
    splits = {name: split_named(name) for name in names}
    return [n for n in names if splits[n] == part] or [n for n in names if not splits[n]]


def split_named(name: str) -> str:
    """Returns the split that a word of the file's own name says, else of the folder's nearest to it; empty for none.

    >>> split_named("train/helpful_TEST-00000.jsonl"), split_named("validation/a.jsonl"), split_named("latest.jsonl")
    ('test', 'validation', '')
    """
    for piece in reversed(name.split("/")):
        named = {_WORDS[word.lower()] for word in _WORD.findall(piece) if word.lower() in _WORDS}
        if len(named) == 1:  # one that names two, such as train_test.jsonl, names none
            return named.pop()
    return ""
