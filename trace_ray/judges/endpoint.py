"""Requests to an OpenAI-compatible endpoint: many in flight, tried again with back-off, within a budget.

On aiohttp, since one long-lived openai.AsyncOpenAI costs 7 to 9 times the CPU a request (4.3 ms) and, at 32 in flight on one
core, answers a fifth of the requests a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from trace_ray.config import EndpointConfig
from trace_ray.errors import UserError
from trace_ray.judges.batch_files import BatchFiles
from trace_ray.judges.pace import Pace
from trace_ray.judges.replies import Reply, failed_reply
from trace_ray.judges.spend import Account

_LONGEST_BACKOFF_S = 60.0

_HARMLESS = {"messages": [{"role": "user", "content": "Answer Yes."}], "max_tokens": 1}
"""Of a request, to see whether the endpoint is up."""


class Endpoint:
    """One endpoint; counts what it uses and stops at its budget.

    Args:
        config: the endpoint; ``max_requests`` and ``max_tokens`` are what this process may use.
        where: the setting that it comes from.
    """

    def __init__(self, config: EndpointConfig, where: str = "endpoint") -> None:
        self.config, self.where = config, where
        self.account = Account(config, where)
        self.pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        """Returns the reply to each payload, in order.

        Raises: UserError where the budget is spent, the endpoint refuses us, or it failed for every single payload and
            for a harmless one after them: a text that it cannot bear is no outage.
        """
        if self.config.batch_from and len(payloads) >= self.config.batch_from:
            return BatchFiles(self.config, self.where, self.headers, self.account).ask(path, payloads)
        replies = asyncio.run(self._ask(path, payloads))
        if _failed(replies) and _failed(asyncio.run(self._ask(path, [payloads[0] | _HARMLESS]))):
            remedy = "it failed for every request of a batch; see that it is up, then run the same command again"
            raise UserError(f"{self.where}.base_url", f"{self.config.base_url}: {replies[0].error}", remedy)
        return replies

    async def _ask(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Reply]:
        import aiohttp

        in_flight = asyncio.Semaphore(self.config.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self.config.concurrency)
        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout, connector=connector) as session:
            url = f"{self.config.base_url.rstrip('/')}/{path}"

            async def ask_in_turn(payload: dict[str, Any]) -> Reply:
                async with in_flight:
                    return await self._persist(session, url, payload)

            tasks = [asyncio.create_task(ask_in_turn(payload)) for payload in payloads]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    async def _persist(self, session: Any, url: str, payload: dict[str, Any]) -> Reply:
        for attempt in range(self.config.max_retries + 1):
            reply, wait = await self._try(session, url, payload)
            if reply.final or attempt == self.config.max_retries:
                break
            self.account.retries += 1
            backoff = self.config.backoff_s * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter is no secret
            await asyncio.sleep(max(wait, min(_LONGEST_BACKOFF_S, backoff)))
        return reply

    async def _try(self, session: Any, url: str, payload: dict[str, Any]) -> tuple[Reply, float]:
        """One request; returns the reply and the seconds that the endpoint asks us to wait."""
        import aiohttp

        self.account.spend(1)
        if wait := self.pace.take_turn(time.monotonic()):
            await asyncio.sleep(wait)
        try:
            async with session.post(url, json=payload) as response:
                if response.status == 200:
                    body = await response.json(content_type=None)
                    answer = body if isinstance(body, dict) else {}
                    self.pace.used(self.account.answered(answer), time.monotonic())
                    return Reply(answer), 0.0
                reply = failed_reply(response.status, await response.text(), self.where, url)
                wait = 0.0 if reply.final else retry_after(response.headers.get("Retry-After"), time.time())
                return reply, wait
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            return Reply(None, f"endpoint: {type(error).__name__} {str(error)[:150]}".strip(), final=False), 0.0

    def counts(self) -> dict[str, int]:
        return self.account.counts()


def _failed(replies: Sequence[Reply]) -> bool:
    return bool(replies) and all(reply.error and not reply.final for reply in replies)


def retry_after(value: str | None, now: float) -> float:
    """Returns the seconds that a Retry-After header asks for, given as seconds or as a date; 0 where it says nothing.

    >>> retry_after("3", 0.0)
    3.0
    """
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return 0.0
