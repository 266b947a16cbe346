"""S3 for ``storage``: how it is reached, whole objects in and out, one level of a listing, writes on a condition.

By s3fs, as a filesystem for pyarrow: obstore asks for the same requests (1.7 instead of 5.1 ms of CPU each), and pyarrow's own
S3 can write on no condition, which a run's lock needs.

Retries have two layers: botocore backs off on throttling and server errors of one request (exponential, jittered);
``patiently`` repeats a whole object's transfer where a connection died inside a body, which s3fs gives up on.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from trace_ray.errors import UserError
from trace_ray.runtime import metrics
from trace_ray.storage.settings import StorageConfig

T = TypeVar("T")

BLOCK_BYTES = 8 << 20
"""Read-ahead of a stream, and what one ranged request of a download fetches."""

_RANDOM_BYTES = 128 << 10
_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 6, 0.5, 20.0
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)


class Entry(NamedTuple):
    """One object of a listing; ``version`` changes whenever its bytes do."""

    name: str
    size: int
    version: str


class ChangedError(Exception):
    """A conditional write found another version than the one it was to replace."""


class S3Handler(pafs.FSSpecHandler):  # type: ignore[misc] # pyarrow has no types
    """Opens files for what pyarrow does with them: far read-ahead for streams, little for reads here and there.

    pyarrow's own handler opens both alike, so that each footer or column costs a whole read-ahead, and asks for the
    file's existence before opening it.
    """

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb", block_size=_RANDOM_BYTES), mode="r")


def s3_filesystem(storage: StorageConfig) -> pafs.FileSystem:
    """Returns S3 as a pyarrow filesystem; credentials come from botocore's default chain and nowhere else."""
    from trace_ray.storage.counted_s3 import CountedS3

    endpoint = storage.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    filesystem = CountedS3(
        anon=storage.anonymous,
        endpoint_url=endpoint,
        s3_additional_kwargs=_encryption(storage.kms_key),
        client_kwargs={"region_name": storage.region} if storage.region else {},
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": storage.max_attempts},
            "connect_timeout": storage.connect_timeout_s,
            "read_timeout": storage.read_timeout_s,
        },
        default_block_size=BLOCK_BYTES,
        use_listings_cache=False,
    )
    return pafs.PyFileSystem(S3Handler(filesystem))


def _encryption(kms_key: str) -> dict[str, str]:
    """What every write asks for besides; s3fs leaves it out of requests that know no such thing."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


def check_reachable(storage: StorageConfig, path: str, uri: str) -> None:
    """Lists one name. Raises UserError, soon, where bucket, credentials or endpoint are wrong."""
    fs = s3_filesystem(replace(storage, max_attempts=min(3, storage.max_attempts)))
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    bucket = path.split("/", 1)[0]
    try:
        raw(fs).call_s3("list_objects_v2", Bucket=bucket, Prefix=path.partition("/")[2], MaxKeys=1)
    except FileNotFoundError:
        raise UserError("URI", uri, f"there is no bucket {bucket}, or not at this endpoint") from None
    except (PermissionError, NoCredentialsError) as error:
        remedy = "access refused; give this process a role or credentials of the default chain"
        raise UserError("URI", uri, f"{remedy} ({_one_line(error)})") from None
    except (BotoCoreError, OSError) as error:
        raise UserError(
            "storage.endpoint", _endpoint(fs), f"S3 does not answer for {uri}: {_one_line(error)}"
        ) from None


def raw(fs: pafs.FileSystem) -> Any:
    """Returns the s3fs filesystem inside."""
    return fs.handler.fs


def get(fs: pafs.FileSystem, path: str) -> bytes:
    """Returns the whole object in one GET."""
    return get_version(fs, path)[0]


def get_version(fs: pafs.FileSystem, path: str) -> tuple[bytes, str]:
    """Returns an object and its version, from one response."""
    return _body(fs, path, {})


def _body(fs: pafs.FileSystem, path: str, asked: dict[str, str]) -> tuple[bytes, str]:
    # s3fs' own cat_file asks for the size first: two requests for each small file.
    def read() -> tuple[bytes, str]:
        from fsspec.asyn import sync

        bucket, key, _ = raw(fs).split_path(path)
        answer = raw(fs).call_s3("get_object", Bucket=bucket, Key=key, **asked)
        return sync(raw(fs).loop, answer["Body"].read), str(answer["ETag"])

    return patiently(read)


def get_range(fs: pafs.FileSystem, path: str, start: int, stop: int) -> bytes:
    """Returns bytes start..stop of an object in one GET."""
    return _body(fs, path, {"Range": f"bytes={start}-{stop - 1}"})[0] if stop > start else b""


def stream(fs: pafs.FileSystem, path: str) -> BinaryIO:
    """Opens an object to be read on from anywhere, BLOCK_BYTES and more a request."""
    return io.BufferedReader(raw(fs).open(path, "rb"), 1 << 20)


def put(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    """Stores an object: one PUT, or a multipart upload where it is large; readers see all of it or nothing."""
    patiently(lambda: raw(fs).pipe_file(path, data))


def put_if(fs: pafs.FileSystem, path: str, data: bytes, version: str | None) -> str:
    """Stores an object only where it has ``version`` now (None: where there is none).

    Returns: the new version.
    Raises: ChangedError where it has not. No blind retry: a lost answer would look like another's write.
    """
    from botocore.exceptions import ClientError

    bucket, key, _ = raw(fs).split_path(path)
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        answer = raw(fs).call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except (OSError, ClientError) as error:
        code = _status(error)
        if code in (404, 409, 412):
            raise ChangedError(path) from None
        raise
    return str(answer["ETag"])


def upload(fs: pafs.FileSystem, path: str, file: str) -> None:
    """Stores a local file; beyond 100 MiB as a multipart upload, so a shard of weights is never whole in memory."""
    patiently(lambda: raw(fs).put_file(file, path))


def download(fs: pafs.FileSystem, path: str, file: str) -> None:
    """Fetches an object into a local file, its ranges in parallel."""
    patiently(lambda: raw(fs).get_file(path, file))


def entries(fs: pafs.FileSystem, path: str) -> list[Entry]:
    """Returns the objects directly below a prefix, sorted by name: one request a thousand, sub-prefixes not entered."""

    def listing() -> list[dict[str, Any]]:
        try:
            return list(raw(fs).ls(path, detail=True))
        except FileNotFoundError:
            return []

    found = [item for item in patiently(listing) if item["type"] == "file"]
    names = [Entry(item["name"].rsplit("/", 1)[-1], item["size"], str(item.get("ETag", ""))) for item in found]
    return sorted(entry for entry in names if entry.name)


def size_and_version(fs: pafs.FileSystem, path: str) -> tuple[int, str]:
    """Returns an object's bytes and its ETag, which changes whenever they do, from one HEAD."""
    info = patiently(lambda: raw(fs).info(path))
    return int(info["size"]), str(info.get("ETag") or info.get("LastModified", ""))


def written(fs: pafs.FileSystem, path: str) -> float:
    """Returns when an object was stored, in seconds since the epoch."""
    return float(patiently(lambda: raw(fs).info(path))["LastModified"].timestamp())


def patiently(operation: Callable[[], T]) -> T:
    """Returns what an operation returns that may be done again, after growing pauses where S3 fails for a while."""
    wait = _FIRST_WAIT
    passing = transient_errors()
    for _ in range(_TRIES - 1):
        try:
            return operation()
        except _FINAL:
            raise
        except passing:
            metrics.count("retries", 1, kind="s3")
            time.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            wait = min(_LONGEST_WAIT, 2 * wait)
    return operation()


def transient_errors() -> tuple[type[Exception], ...]:
    """Returns what is raised where S3 or the way to it fails for a while, once their own retries are used up."""
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as NotConnectedError
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    return (
        OSError,
        EOFError,
        ClientError,
        NotConnectedError,
        HTTPClientError,
        IncompleteReadError,
        ResponseStreamingError,
    )


def _status(error: BaseException) -> int:
    """Returns the HTTP status behind what s3fs raised; 0 where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        seen = seen.__cause__
    return 0


def _endpoint(fs: pafs.FileSystem) -> str:
    return str(raw(fs).endpoint_url or "AWS")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
