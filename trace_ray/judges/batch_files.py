"""Requests to an OpenAI-compatible endpoint as batch files: cheaper, answered within a day.

A batch carries the digest of what it asks in its metadata, and how often that was asked before, so the endpoint's own list
tells whether something was asked: whoever asks the same again, after a kill at any moment, goes through the batches that
are there, reads those that have ended, waits for one that runs, and begins others only for lines that all of them leave
open. Nothing is kept here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trace_ray.config import EndpointConfig
from trace_ray.errors import UserError
from trace_ray.judges.replies import Reply, failed_reply
from trace_ray.judges.spend import Account

KEY = "trace_ray"
"""Under which a batch's metadata holds what it is known by."""
WINDOW = "24h"
_ENDED = ("completed", "expired", "cancelled")
"""All of them hold the answers to some of their lines, which are paid for; a failed one never began to answer."""
_STOPPED = ("cancelling", "cancelled")
_PAGE = 100
_NO_LINE = Reply(None, "endpoint: its batch has no answer to this line that can be read", final=False)

Batch = Mapping[str, Any]
T = TypeVar("T")


class _Unclear(Exception):  # noqa: N818  no error: somebody asks again
    """A request to the endpoint itself failed for now."""


@dataclass(frozen=True)
class BatchFiles:
    """Asks by batches.

    Args:
        where: the setting that the endpoint comes from; headers: with its key.
        account: told each line that is sent, and each answer.
    """

    config: EndpointConfig
    where: str
    headers: dict[str, str]
    account: Account

    def ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        """Returns the reply to each payload, in order; lines that failed for now are asked again in a batch of their own.

        Raises: UserError where the budget is spent, or the endpoint refuses a batch or us, or does not answer.
        """
        return asyncio.run(self._ask(path, payloads))

    async def _ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        import aiohttp

        lines = {str(i): _line(i, path, payload) for i, payload in enumerate(payloads)}
        replies = dict.fromkeys(lines, _NO_LINE)
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        before: Counter[str] = Counter()
        tries = 0
        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout) as session:
            while tries <= self.config.max_retries and (todo := [lines[n] for n, r in replies.items() if not r.final]):
                again, files = bool(before), _named(files_of(todo), before)
                there: dict[str, Batch] = await self._patiently(self._there, session, files)
                self._book(files, there, again=again)
                waiting = [self._answered(session, path, name, file, there.get(name)) for name, file in files.items()]
                for answers in await asyncio.gather(*waiting):
                    replies |= {name: reply for name, reply in answers.items() if name in replies}
                tries += not all(map(_over, map(there.get, files)))  # to read what had ended is to ask nothing
        return list(replies.values())

    def _book(self, files: Mapping[str, bytes], there: Mapping[str, Batch], *, again: bool) -> None:
        """Counts the lines of batches that run, and of those to begin, which the budget must hold."""
        sizes = {name: file.count(b"\n") for name, file in files.items() if not _over(there.get(name))}
        new = sum(size for name, size in sizes.items() if name not in there)
        self.account.requests += sum(sizes.values()) - new
        if new:
            self.account.spend(new)
        self.account.retries += sum(sizes.values()) if again else 0

    async def _there(self, session: Any, names: Collection[str]) -> dict[str, Batch]:
        """Returns {name: batch} of the endpoint's list, in which one is too whose beginning was cut off."""
        found: dict[str, Batch] = {}
        after = ""
        while True:
            page = await self._json(session, "GET", f"batches?limit={_PAGE}{after}")
            batches = page.get("data") or []
            for batch in batches:
                name = str((batch.get("metadata") or {}).get(KEY))
                if name in names and batch["status"] != "failed":
                    found.setdefault(name, batch)
            if len(found) == len(names) or not page.get("has_more") or not batches:
                return found
            after = f"&after={batches[-1]['id']}"

    async def _answered(self, session: Any, path: str, name: str, file: bytes, there: Batch | None) -> dict[str, Reply]:
        """Returns {line: reply} of a batch, the one that is there or a new one, once it has ended.

        What was over before we came stops nobody, or it would for ever: it gives what it holds.
        """
        over, batch = _over(there), there
        if batch is None:
            batch = await self._patiently(self._found_or_begun, session, path, name, file)
        while True:
            if batch["status"] == "failed" or (batch["status"] in _STOPPED and not over):
                remedy = "see at the endpoint what was wrong with it, then run the same command again"
                raise UserError(f"{self.where}.batch_from", f"batch {batch['id']} {_why(batch)}", remedy)
            if batch["status"] in _ENDED:
                break
            await asyncio.sleep(self.config.batch_poll_s)
            batch = await self._patiently(self._json, session, "GET", f"batches/{batch['id']}")
        replies: dict[str, Reply] = {}
        for place in filter(None, (batch.get("error_file_id"), batch.get("output_file_id"))):
            content = f"files/{place}/content"
            text: str = await self._patiently(self._text, session, "GET", content, large=True, may_be_gone=over)
            for line in text.split("\n"):  # splitlines() cuts at characters that stand in JSON as they are
                replies |= self._read(line, over=over)
        if over:  # its open lines, if any, were counted by whoever asked them
            self.account.requests += sum(reply.final for reply in replies.values())
        return replies

    async def _found_or_begun(self, session: Any, path: str, name: str, file: bytes) -> Batch:
        """A beginning of which no answer came is not repeated."""
        import aiohttp

        if there := (await self._there(session, [name])).get(name):
            return there
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", file, filename="requests.jsonl", content_type="application/jsonl")
        sent = await self._json(session, "POST", "files", large=True, data=form)
        asked = {"input_file_id": sent["id"], "endpoint": f"/v1/{path}", "completion_window": WINDOW}
        return await self._json(session, "POST", "batches", json=asked | {"metadata": {KEY: name}})

    async def _patiently(self, ask: Callable[..., Awaitable[T]], *arguments: Any, **named: Any) -> T:
        attempt = 0
        while True:
            try:
                return await ask(*arguments, **named)
            except _Unclear as error:
                if attempt == self.config.max_retries:
                    remedy = "see that it is up and serves batches, then run the same command again"
                    raise UserError(f"{self.where}.base_url", f"{self.config.base_url}: {error}", remedy) from None
                await asyncio.sleep(min(60.0, self.config.backoff_s * 2**attempt))
                attempt += 1

    async def _json(self, session: Any, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            return dict(json.loads(await self._text(session, method, path, **more)))
        except (ValueError, TypeError) as error:
            raise _Unclear(f"no JSON object: {error}") from None

    async def _text(
        self, session: Any, method: str, path: str, *, large: bool = False, may_be_gone: bool = False, **more: Any
    ) -> str:
        """Returns what a request is answered with, nothing for what is gone.

        Args:
            large: it moves up to 200 MB, which may take any time as long as something comes.
        """
        import aiohttp

        url = f"{self.config.base_url.rstrip('/')}/{path}"
        if large:
            stalled = self.config.timeout_s
            more["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=stalled, sock_read=stalled)
        try:
            async with session.request(method, url, **more) as response:
                text = str((await response.read()).decode(errors="replace"))
                if response.status == 200:
                    return text
                if may_be_gone and response.status in (404, 410):
                    return ""
                reply = failed_reply(response.status, text, self.where, url)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _Unclear(f"{type(error).__name__} {str(error)[:150]}".strip()) from None
        if reply.final:
            remedy = "it takes no batch like this: leave batch_from at 0, or see what it says"
            raise UserError(f"{self.where}.batch_from", f"{url}: {reply.error}", remedy)
        raise _Unclear(reply.error)

    def _read(self, line: str, *, over: bool) -> dict[str, Reply]:
        """Returns {name: reply} of one line, or nothing: what a line that is not readable answers stays open."""
        try:
            told = json.loads(line)
            name, answer = str(told["custom_id"]), told.get("response") or {}
            body, status = answer.get("body"), int(answer.get("status_code") or 0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}
        if status == 200 and isinstance(body, dict):
            self.account.answered(body)
            return {name: Reply(body)}
        if not status:
            return {name: Reply(None, f"endpoint: {json.dumps(told.get('error'))[:200]}", final=False)}
        try:
            return {name: failed_reply(status, json.dumps(body), self.where, "a line of its batch")}
        except UserError as error:
            if not over:
                raise
            return {name: Reply(None, str(error), final=False)}  # the key or the model may be right by now


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


def _named(files: Sequence[bytes], before: Counter[str]) -> dict[str, bytes]:
    """Returns {what its batch is known by: file}: its digest and how often it was asked ``before``, which is counted."""
    named = {}
    for file in files:
        digest = hashlib.sha256(file).hexdigest()[:32]
        named[f"{digest} {before[digest]}"] = file
        before[digest] += 1
    return named


def _over(batch: Batch | None) -> bool:
    """Returns whether a batch that is there had ended, or was being stopped."""
    return batch is not None and batch["status"] in {*_ENDED, *_STOPPED}


def _line(number: int, path: str, payload: dict[str, Any]) -> str:
    return json.dumps({"custom_id": str(number), "method": "POST", "url": f"/v1/{path}", "body": payload}) + "\n"


def _why(batch: Batch) -> str:
    errors = (batch.get("errors") or {}).get("data") or [{}]
    return f"{batch['status']}: {str(errors[0].get('message', 'no reason given'))[:200]}"
