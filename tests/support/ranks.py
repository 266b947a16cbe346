"""Processes joined by torch.distributed without Ray, forked from one that has imported the libraries: most of a start."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

_LIBRARIES = ["tests.support.rank_libraries"]


def run_ranks(work: Callable[..., Any], arguments: tuple[Any, ...], ranks: int, logs: Path) -> list[str]:
    """Runs ``work(*arguments)`` in so many processes; returns what each has said.

    Args:
        work: a function of a module's own; torch.distributed's variables are set when it is called.
        logs: a folder, into which each rank's output goes.
    Raises: AssertionError with the end of what was said where one of them fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    port = free_port()
    paths = [logs / f"log-{rank}" for rank in range(ranks)]
    processes = [
        context.Process(target=_rank, args=(work, arguments, rank, ranks, port, str(path)), daemon=True)
        for rank, path in enumerate(paths)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=600)
    said = [path.read_text() for path in paths]
    codes = [process.exitcode for process in processes]
    assert codes == [0] * ranks, "\n".join([str(codes), *(text[-2000:] for text in said)])
    return said


def _rank(work: Callable[..., Any], arguments: tuple[Any, ...], rank: int, ranks: int, port: int, log: str) -> None:
    with open(log, "w", buffering=1, encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in place.items()}
    work(*arguments)
    sys.stdout.flush()
