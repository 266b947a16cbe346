"""s3fs that counts each request as it goes out, botocore's retries included."""

from __future__ import annotations

from typing import Any

import s3fs

from trace_ray.storage import traffic


class CountedS3(s3fs.S3FileSystem):  # type: ignore[misc] # s3fs has no types
    """Counts for all clients of its session: s3fs makes one a region."""

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] | None = None) -> Any:
        client = await super().set_session(refresh, kwargs or {})
        for events in (self.session.get_component("event_emitter"), client.meta.events):
            events.register("before-send.s3", _sent, unique_id="trace-ray-sent")
            events.register("response-received.s3", _answered, unique_id="trace-ray-answered")
        return client


def _sent(request: Any, **_: Any) -> None:
    traffic.count(traffic.kind_of(request.method, request.url))
    if size := request.headers.get("Content-Length"):
        traffic.count("bytes_out", int(size))


def _answered(response_dict: dict[str, Any] | None, **_: Any) -> None:
    headers = (response_dict or {}).get("headers") or {}
    if size := headers.get("content-length"):
        traffic.count("bytes_in", int(size))
