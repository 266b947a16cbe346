"""Requests to an OpenAI-compatible endpoint as batch files: cheaper, answered within a day.

A batch carries the digest of what it asks in its metadata, so the endpoint's own list tells whether something was asked
before: whoever asks the same again, after a kill at any moment, finds the batch and waits for it. Nothing is kept here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import EndpointConfig
from trace_ray.errors import UserError
from trace_ray.judges.replies import Reply, failed_reply

KEY = "trace_ray"
"""Under which a batch's metadata holds what it is known by."""
WINDOW = "24h"
_GIVEN_UP = ("failed", "cancelling", "cancelled")
_ENDED = ("completed", "expired")
_PAGE = 100
_NO_LINE = Reply(None, "endpoint: its batch has no answer to this line", final=False)


class _Unclear(Exception):  # noqa: N818  no error: somebody asks again
    """A request to the endpoint itself failed for now."""


@dataclass(frozen=True)
class BatchFiles:
    """Asks by batches.

    Args:
        where: the setting that the endpoint comes from; headers: with its key.
        count: told the body of each answer.
    """

    config: EndpointConfig
    where: str
    headers: dict[str, str]
    count: Callable[[dict[str, Any]], Any]

    def ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        """Returns the reply to each payload, in order; lines that failed for now are asked again in a batch of their own.

        Raises: UserError where the endpoint refuses a batch or us, or does not answer.
        """
        return asyncio.run(self._ask(path, payloads))

    async def _ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        import aiohttp

        lines = {str(i): _line(i, path, payload) for i, payload in enumerate(payloads)}
        replies = dict.fromkeys(lines, _NO_LINE)
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout) as session:
            for attempt in range(self.config.max_retries + 1):
                todo = [lines[name] for name, reply in replies.items() if not reply.final]
                waiting = [
                    self._answered(session, path, f"{hashlib.sha256(file).hexdigest()[:32]} {attempt}", file)
                    for file in files_of(todo)
                ]
                for answers in await asyncio.gather(*waiting):
                    replies |= answers
        return list(replies.values())

    async def _answered(self, session: Any, path: str, known_by: str, file: bytes) -> dict[str, Reply]:
        """Returns {line: reply} of a batch, the one that is there or a new one, once it has ended."""
        batch = await self._patiently(lambda: self._found_or_begun(session, path, known_by, file))
        while batch["status"] not in _ENDED:
            if batch["status"] in _GIVEN_UP:
                remedy = "see at the endpoint what was wrong with it, then run the same command again"
                raise UserError(f"{self.where}.batch_from", f"batch {batch['id']} {_why(batch)}", remedy)
            await asyncio.sleep(self.config.batch_poll_s)
            name = batch["id"]
            batch = await self._patiently(lambda name=name: self._json(session, "GET", f"batches/{name}"))  # type: ignore[misc]
        replies: dict[str, Reply] = {}
        for kind in ("error_file_id", "output_file_id"):
            if place := batch.get(kind):
                path_of = f"files/{place}/content"
                text = await self._patiently(lambda path_of=path_of: self._text(session, "GET", path_of))  # type: ignore[misc]
                replies |= {name: reply for line in text.splitlines() if line for name, reply in [self._read(line)]}
        return replies

    async def _found_or_begun(self, session: Any, path: str, known_by: str, file: bytes) -> dict[str, Any]:
        """The batch that asks this; one whose beginning was cut off is in the list, or was never begun."""
        import aiohttp

        after = ""
        while True:
            page = await self._json(session, "GET", f"batches?limit={_PAGE}{after}")
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get(KEY) == known_by and batch["status"] not in _GIVEN_UP:
                    return dict(batch)
            if not page.get("has_more") or not page["data"]:
                break
            after = f"&after={page['data'][-1]['id']}"
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", file, filename="requests.jsonl", content_type="application/jsonl")
        sent = await self._json(session, "POST", "files", data=form)
        asked = {"input_file_id": sent["id"], "endpoint": f"/v1/{path}", "completion_window": WINDOW}
        return await self._json(session, "POST", "batches", json=asked | {"metadata": {KEY: known_by}})

    async def _patiently(self, ask: Callable[[], Any]) -> Any:
        attempt = 0
        while True:
            try:
                return await ask()
            except _Unclear as error:
                if attempt == self.config.max_retries:
                    remedy = (
                        "see that it is up and serves batches, then run the same command again: what it holds is found"
                    )
                    raise UserError(f"{self.where}.base_url", f"{self.config.base_url}: {error}", remedy) from None
                await asyncio.sleep(min(60.0, self.config.backoff_s * 2**attempt))
                attempt += 1

    async def _json(self, session: Any, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            return dict(json.loads(await self._text(session, method, path, **more)))
        except (ValueError, TypeError) as error:
            raise _Unclear(f"no JSON object: {error}") from None

    async def _text(self, session: Any, method: str, path: str, **more: Any) -> str:
        import aiohttp

        url = f"{self.config.base_url.rstrip('/')}/{path}"
        try:
            async with session.request(method, url, **more) as response:
                text = str(await response.text())
                if response.status == 200:
                    return text
                reply = failed_reply(response.status, text, self.where, url)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _Unclear(f"{type(error).__name__} {str(error)[:150]}".strip()) from None
        if reply.final:
            remedy = "it takes no batch like this: leave batch_from at 0, or see what it says"
            raise UserError(f"{self.where}.batch_from", f"{url}: {reply.error}", remedy)
        raise _Unclear(reply.error)

    def _read(self, line: str) -> tuple[str, Reply]:
        told = json.loads(line)
        answer = told.get("response") or {}
        body, status = answer.get("body"), int(answer.get("status_code") or 0)
        if status == 200 and isinstance(body, dict):
            self.count(body)
            return str(told["custom_id"]), Reply(body)
        if status:
            return str(told["custom_id"]), failed_reply(status, json.dumps(body), self.where, "a line of its batch")
        return str(told["custom_id"]), Reply(None, f"endpoint: {json.dumps(told.get('error'))[:200]}", final=False)


def files_of(lines: Sequence[str], most_lines: int = 50_000, most_bytes: int = 190_000_000) -> list[bytes]:
    r"""Returns the lines in files of a size that endpoints take: 50,000 requests and 200 MB.

    >>> files_of(["a\n", "b\n", "ccc\n"], most_bytes=5), files_of(["a\n", "b\n"], most_lines=1), files_of([])
    ([b'a\nb\n', b'ccc\n'], [b'a\n', b'b\n'], [])
    """
    files: list[list[bytes]] = []
    size = 0
    for line in map(str.encode, lines):
        if not files or len(files[-1]) == most_lines or size + len(line) > most_bytes:
            files.append([])
            size = 0
        files[-1].append(line)
        size += len(line)
    return [b"".join(file) for file in files]


def _line(number: int, path: str, payload: dict[str, Any]) -> str:
    return json.dumps({"custom_id": str(number), "method": "POST", "url": f"/v1/{path}", "body": payload}) + "\n"


def _why(batch: dict[str, Any]) -> str:
    errors = (batch.get("errors") or {}).get("data") or [{}]
    return f"{batch['status']}: {str(errors[0].get('message', 'no reason given'))[:200]}"
