"""Where a configuration's yaml comes from: a file, s3://, or the shipped files by name; and what it says."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trace_ray
from trace_ray.config import StorageConfig
from trace_ray.errors import UserError, nearest


def conf_folder() -> Path:
    """Returns the folder of shipped yaml files: beside the package in a checkout, inside it in a wheel."""
    here = Path(trace_ray.__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


@dataclass(frozen=True)
class Source:
    """A yaml file that was found.

    Args:
        place: its absolute path or its s3:// address: two names of one file have one place.
        text: what it holds.
        called: how the user, or the file that includes it, called it.
    """

    place: str
    text: str
    called: str


@dataclass(frozen=True)
class Layer:
    """The settings of one file, without those that it includes.

    Args:
        place, called: as of ``Source``.
    """

    place: str
    called: str
    values: dict[str, Any]


def layers(name: str, storage: StorageConfig) -> Iterator[Layer]:
    """Yields the settings of a file, after those of the files that it includes.

    Args:
        name: a path, an s3:// address, or a shipped file's name such as models/llama-3.1-8b.
        storage: how s3:// is reached while the configuration is not yet read.
    Raises: UserError where there is no such file, it is no yaml, or includes itself.
    """
    yield from _with_included(_find(name, "", storage), (), storage)


def _with_included(source: Source, within: tuple[str, ...], storage: StorageConfig) -> Iterator[Layer]:
    if source.place in within:
        raise UserError(source.called, "include", "the file includes itself")
    values = mapping(source.text, source.called)
    included = values.pop("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise UserError(source.called, f"include: {included}", "give a list of files: include: [base.yaml]")
    for name in included:
        yield from _with_included(_find(name, source.place, storage), (*within, source.place), storage)
    yield Layer(source.place, source.called, values)


def _find(name: str, beside: str, storage: StorageConfig) -> Source:
    """Returns a file: beside the one that includes it where there is one, else among the shipped ones.

    Args:
        beside: the place of the file that includes it; empty = the command line does.
    """
    if name.startswith("s3://"):
        return _fetched(name, storage)
    if beside.startswith("s3://"):
        address = "s3://" + posixpath.normpath(f"{beside.removeprefix('s3://')}/../{name}")
        shipped = _shipped(name)
        return _read(shipped, name) if shipped else _fetched(address, storage)
    path = Path(beside).parent / name if beside else Path(name)
    if path.is_dir() and not _shipped(name):
        raise UserError("-c", name, "a folder; name a file in it")
    if path.is_file():
        return _read(path, str(path.resolve()) if beside else name)
    shipped = _shipped(name)
    if shipped:
        return _read(shipped, name)
    neighbours = [str(neighbour) for neighbour in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = nearest(str(path), neighbours) or nearest(_stem(name), shipped_names())
    raise UserError("-c", path if beside else name, f"no such file{close}")


def shipped_names() -> list[str]:
    """Returns what the shipped files are called: models/llama-3.1-8b and so on."""
    folder = conf_folder()
    return sorted(_stem(path.relative_to(folder).as_posix()) for path in folder.glob("*/*.yaml"))


def _stem(name: str) -> str:
    return name.removeprefix("conf/").removesuffix(".yaml")


def _shipped(name: str) -> Path | None:
    """Returns the shipped file of this name, with or without conf/ and .yaml: found after `pip install` too."""
    stem = _stem(name)
    return conf_folder() / f"{stem}.yaml" if stem in shipped_names() else None


def _read(path: Path, called: str) -> Source:
    try:
        return Source(str(path.resolve()), path.read_text(encoding="utf-8"), called)
    except UnicodeDecodeError as error:
        raise UserError(called, "not yaml", str(error)) from None


def _fetched(address: str, storage: StorageConfig) -> Source:
    from trace_ray.storage.location import locate, nearby
    from trace_ray.storage.object_store import check_reachable

    place = locate(address, storage)
    check_reachable(storage, place.path, address)
    if not place.exists():
        raise UserError("-c", address, f"no such file{nearby(place)}")
    try:
        return Source(address, place.read_text(), address)
    except UnicodeDecodeError as error:
        raise UserError(address, "not yaml", str(error)) from None


def mapping(text: str, where: str) -> dict[str, Any]:
    """Returns a configuration file's settings. Raises UserError where it holds something else."""
    try:
        values = parse(text)
    except ValueError as error:
        raise UserError(where, "not yaml", " ".join(str(error).split())) from None
    if not isinstance(values, dict):
        raise UserError(where, type(values).__name__, "a configuration file holds a mapping of settings")
    return values


def parse(text: str) -> Any:
    """Returns what yaml text says: a date is the text that it is, and a key given twice is no yaml.

    Raises: ValueError for text that is not that.
    """
    import yaml

    class Strict(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
            first: [(tag, pattern) for tag, pattern in some if tag != "tag:yaml.org,2002:timestamp"]
            for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            twice = {key for key in keys if keys.count(key) > 1}
            if twice:
                raise ValueError(f"{min(twice)} is given twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Strict)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(error) from None
