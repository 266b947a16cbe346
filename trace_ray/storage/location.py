"""The only place that turns a URI (a path or s3://...) into a filesystem."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from trace_ray.errors import UserError, nearest
from trace_ray.storage import object_store
from trace_ray.storage.at_once import side_by_side
from trace_ray.storage.fingerprints import content_hash
from trace_ray.storage.object_store import Entry
from trace_ray.storage.settings import StorageConfig


@dataclass(frozen=True)
class Location:
    """A file or folder on a filesystem; small, picklable, good to send to Ray tasks.

    Args:
        fs: the pyarrow filesystem; ``path`` is without scheme, as that filesystem takes it.
    """

    fs: pafs.FileSystem
    path: str

    def __truediv__(self, name: str) -> Location:
        return Location(self.fs, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    @property
    def uri(self) -> str:
        return self.path if self.is_local else f"s3://{self.path}"

    def exists(self) -> bool:
        return bool(self.fs.get_file_info(self.path).type != pafs.FileType.NotFound)

    def age(self) -> float:
        """Returns the seconds since this file was written, by this machine's clock and the storage's."""
        if self.is_local:
            return time.time() - os.stat(self.path).st_mtime
        return time.time() - object_store.written(self.fs, self.path)

    def read_bytes(self) -> bytes:
        if not self.is_local:
            return object_store.get(self.fs, self.path)
        with open(self.path, "rb") as handle:
            return handle.read()

    def read_range(self, start: int, stop: int) -> bytes:
        """Returns bytes start..stop, from one request where this is in an object store."""
        if not self.is_local:
            return object_store.get_range(self.fs, self.path, start, stop)
        with open(self.path, "rb") as handle:
            handle.seek(start)
            return handle.read(stop - start)

    def open(self) -> BinaryIO:
        """Opens this file to be read on from anywhere: read far ahead."""
        if self.is_local:
            return open(self.path, "rb", buffering=1 << 20)
        return object_store.stream(self.fs, self.path)

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8")

    def write_bytes(self, data: bytes) -> None:
        """Writes the whole file or nothing: renamed into place locally, one upload on an object store."""
        if not self.is_local:
            object_store.put(self.fs, self.path, data)
            return
        with self._replaced() as temporary, open(temporary, "wb") as handle:
            handle.write(data)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode("utf-8"))

    def write_parquet(self, table: pa.Table) -> None:
        """Writes one parquet file, whole or not at all."""
        if self.is_local:
            with self._replaced() as temporary:
                pq.write_table(table, temporary, compression="zstd")
            return
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        object_store.put(self.fs, self.path, sink.getvalue().to_pybytes())

    def read_parquet(self, columns: Sequence[str] | None = None, younger: Sequence[str] = ()) -> pa.Table:
        """Returns the file as a table; of a few columns on S3 no more than their bytes and the footer are fetched.

        Args:
            younger: further columns, of a file that lacks them left out.
        """
        try:
            if self.is_local:
                return _read(self.path, columns, younger)
            if columns is None:
                return _read(pa.BufferReader(self.read_bytes()), columns, younger)
            return object_store.patiently(lambda: self._read_columns(columns, younger))
        except pa.ArrowInvalid as error:
            remedy = f"damaged ({' '.join(str(error).split())[:120]}); delete it and its folder's _DONE, and run again"
            raise UserError(self.uri, "parquet file", remedy) from None

    def _read_columns(self, columns: Sequence[str], younger: Sequence[str]) -> pa.Table:
        with object_store.raw(self.fs).open(self.path, "rb", cache_type="none") as handle:
            return _read(handle, columns, younger)

    def upload(self, file: Path) -> None:
        """Writes the bytes of a local file, whole or not at all."""
        if not self.is_local:
            object_store.upload(self.fs, self.path, str(file))
            return
        with self._replaced() as temporary:
            shutil.copyfile(file, temporary)

    def download(self, file: Path) -> None:
        """Copies this file to a local one."""
        if self.is_local:
            shutil.copyfile(self.path, file)
        else:
            object_store.download(self.fs, self.path, str(file))

    def make(self) -> None:
        """Creates the folder; an object store has none."""
        if self.is_local:
            os.makedirs(self.path, exist_ok=True)

    def delete_folder(self) -> None:
        if self.exists():
            self.fs.delete_dir(self.path)

    def entries(self) -> list[Entry]:
        """Returns the finished files directly in this folder, sorted by name; none where there is no folder."""
        if not self.is_local:
            return object_store.entries(self.fs, self.path)
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        found = [i for i in self.fs.get_file_info(selector) if i.type == pafs.FileType.File]
        return sorted(Entry(i.base_name, i.size, str(i.mtime_ns)) for i in found if not i.path.endswith(".tmp"))

    def files(self, suffix: str = "") -> list[Location]:
        """Returns the finished files directly in this folder, sorted by name; none where there is no folder."""
        return [self / entry.name for entry in self.entries() if entry.name.endswith(suffix)]

    def fingerprint(self) -> str:
        """Returns 16 hex digits that change with any byte: over the whole file locally, over size and ETag in S3."""
        if self.is_local:
            return content_hash(self.path)
        size, version = object_store.size_and_version(self.fs, self.path)
        return hashlib.sha256(f"{size}:{version}".encode()).hexdigest()[:16]

    @contextmanager
    def _replaced(self) -> Iterator[str]:
        """Gives a name beside this local file; what was written there takes its place on leaving, or goes on an error."""
        folder, name = os.path.split(self.path)
        os.makedirs(folder or ".", exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _read(source: Any, columns: Sequence[str] | None, younger: Sequence[str]) -> pa.Table:
    """Reads one file as it is: a data set's reader takes twice as long of a small one. Raises pa.ArrowInvalid."""
    with pq.ParquetFile(source) as file:
        if columns is None:
            return file.read()
        there = set(file.schema_arrow.names)
        if lacking := [name for name in columns if name not in there]:
            raise pa.ArrowInvalid(f"no column {', '.join(lacking)}")
        wanted = [*columns, *(name for name in younger if name in there)]
        return file.read(wanted).select(wanted)


def fingerprints(places: Sequence[Location]) -> list[str]:
    """Returns each file's ``fingerprint``."""
    return side_by_side(Location.fingerprint, places)


def locate(uri: str, storage: StorageConfig) -> Location:
    """Returns the location of a local path, file:// or s3:// URI.

    Raises: UserError for another scheme, an s3:// URI without a bucket, or a path that climbs with ``..`` on S3.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in ("", "file"):
        return Location(pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))))
    if scheme != "s3":
        raise UserError("URI", uri, "use a local path or s3://bucket/prefix")
    path = uri.removeprefix("s3://").strip("/")
    if not path or ".." in path.split("/"):
        raise UserError("URI", uri, "name a bucket and a plain prefix: s3://bucket/prefix")
    return Location(object_store.s3_filesystem(storage), path)


def expand(patterns: tuple[str, ...], storage: StorageConfig, setting: str) -> list[Location]:
    """Returns the files that paths, folders and globs name, in a fixed order without repeats.

    Raises: UserError where one names nothing.
    """
    found: dict[str, Location] = {}
    for pattern in patterns:
        matches = _matches(pattern, storage)
        if not matches:
            remedy = "give an existing file, folder or glob (local or s3://)"
            raise UserError(setting, pattern, f"no such file{nearby(locate(pattern, storage))}; {remedy}")
        for match in matches:
            found.setdefault(match.path, match)
    return list(found.values())


def nearby(place: Location) -> str:
    """Returns `` (did you mean 'x'?)`` for what is named like a local place that is not there, else an empty string."""
    parent = Path(place.path).parent
    if not place.is_local or not parent.is_dir() or not os.access(parent, os.R_OK):
        return ""
    return nearest(place.name, [entry.name for entry in parent.iterdir()])


def _matches(pattern: str, storage: StorageConfig) -> list[Location]:
    place = locate(pattern, storage)
    if any(mark in pattern for mark in "*?[") and not (place.is_local and os.path.exists(place.path)):
        if place.is_local:
            names = sorted(name for name in glob.glob(place.path, recursive=True) if Path(name).is_file())
        else:
            names = sorted(object_store.raw(place.fs).glob(place.path))
        return [Location(place.fs, name) for name in names]
    info = place.fs.get_file_info(place.path)
    if info.type == pafs.FileType.Directory:
        return place.files()
    return [place] if info.type == pafs.FileType.File else []


def upload_folder(write: Callable[[str], object], place: Location) -> None:
    """Lets ``write`` fill a temporary local folder, then copies its files to ``place``."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        upload_files(Path(folder), place)


def copy_files(folder: Location, place: Location) -> None:
    """Copies the files directly in a folder to ``place``."""
    for file in folder.files():
        (place / file.name).write_bytes(file.read_bytes())


def upload_files(folder: Path, place: Location) -> None:
    """Copies the files of a local folder and those below it to ``place``, the weights last."""
    files = sorted(folder.rglob("*"), key=lambda p: (p.suffix == ".safetensors", str(p)))
    for file in files:
        if file.is_file():
            (place / file.relative_to(folder).as_posix()).upload(file)
