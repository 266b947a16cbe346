"""The only place that turns a URI (a path or s3://...) into a filesystem."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError

_EDGE_BYTES = 1 << 16


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

    def read_bytes(self) -> bytes:
        with self.fs.open_input_stream(self.path, compression=None) as stream:
            return bytes(stream.read())

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8")

    def write_bytes(self, data: bytes) -> None:
        """Writes the whole file or nothing: renamed into place locally, one upload on an object store."""
        target = self._temporary()
        with target.fs.open_output_stream(target.path, compression=None) as stream:
            stream.write(data)
        self._settle(target)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode("utf-8"))

    def write_parquet(self, table: pa.Table) -> None:
        """Writes one parquet file, whole or not at all."""
        target = self._temporary()
        pq.write_table(table, target.path, filesystem=target.fs, compression="zstd")
        self._settle(target)

    def read_parquet(self, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self.path, filesystem=self.fs, columns=columns, partitioning=None)

    def make(self) -> None:
        self.fs.create_dir(self.path, recursive=True)

    def delete_folder(self) -> None:
        if self.exists():
            self.fs.delete_dir(self.path)

    def files(self, suffix: str = "") -> list[Location]:
        """Returns the finished files directly in this folder, sorted by name; none where there is no folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        names = sorted(i.path for i in self.fs.get_file_info(selector) if i.type == pafs.FileType.File)
        return [Location(self.fs, name) for name in names if name.endswith(suffix) and not _is_temporary(name)]

    def fingerprint(self) -> str:
        """Returns a hash of size, first and last 64 KiB: changes with any edit one would make, costs two reads."""
        size = self.fs.get_file_info(self.path).size
        with self.fs.open_input_file(self.path) as handle:
            edges = handle.read(_EDGE_BYTES)
            if size > _EDGE_BYTES:
                handle.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
                edges += handle.read(_EDGE_BYTES)
        return hashlib.sha256(f"{size}:".encode() + edges).hexdigest()[:16]

    def _temporary(self) -> Location:
        if not self.is_local:
            return self
        folder, name = os.path.split(self.path)
        os.makedirs(folder or ".", exist_ok=True)
        return Location(self.fs, os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp"))

    def _settle(self, written: Location) -> None:
        if written.path == self.path:
            return
        with open(written.path, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(written.path, self.path)


def _is_temporary(path: str) -> bool:
    return path.endswith(".tmp")


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
    return Location(_s3(storage), path)


def _s3(storage: StorageConfig) -> pafs.FileSystem:
    import s3fs

    endpoint = storage.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    client: dict[str, Any] = {"region_name": storage.region} if storage.region else {}
    config = {"retries": {"mode": "standard", "max_attempts": 8}}
    filesystem = s3fs.S3FileSystem(
        anon=storage.anonymous,
        endpoint_url=endpoint,
        client_kwargs=client,
        config_kwargs=config,
        use_listings_cache=False,
    )
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def expand(patterns: tuple[str, ...], storage: StorageConfig, setting: str) -> list[Location]:
    """Returns the files that paths, folders and globs name, in a fixed order without repeats.

    Raises: UserError where one names nothing.
    """
    found: list[Location] = []
    for pattern in patterns:
        matches = _matches(pattern, storage)
        if not matches:
            raise UserError(setting, pattern, "no such file; give an existing file, folder or glob (local or s3://)")
        found += [m for m in matches if m.path not in {f.path for f in found}]
    return found


def _matches(pattern: str, storage: StorageConfig) -> list[Location]:
    place = locate(pattern, storage)
    if any(mark in pattern for mark in "*?["):
        if place.is_local:
            base = Path(place.path.split("*")[0].split("?")[0].split("[")[0]).parent
            names = sorted(str(p) for p in base.rglob("*") if p.is_file() and p.match(place.path))
        else:
            names = sorted(place.fs.handler.fs.glob(place.path))
        return [Location(place.fs, name) for name in names]
    info = place.fs.get_file_info(place.path)
    if info.type == pafs.FileType.Directory:
        return place.files()
    return [place] if info.type == pafs.FileType.File else []


def upload_folder(write: Callable[[str], object], place: Location) -> None:
    """Lets ``write`` fill a temporary local folder, then copies its files to ``place``, the weights last."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        files = sorted(Path(folder).rglob("*"), key=lambda p: (p.suffix == ".safetensors", str(p)))
        for file in files:
            if file.is_file():
                (place / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


@contextmanager
def download_folder(place: Location) -> Iterator[str]:
    """Gives a local folder with the files of ``place``: the folder itself where it is local."""
    if place.is_local:
        yield place.path
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in place.files():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        yield folder
