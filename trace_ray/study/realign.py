"""One cell from judged corpus to realigned model, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import Config
from trace_ray.corpus.noise import noisy_table
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.realign.training import Training
from trace_ray.runs.memory import PeakMemory
from trace_ray.study.score import make_direction, score, weigh
from trace_ray.study.train import step_budget, train
from trace_ray.u2a import gains, largest, rescoring, reweighed

Seconds = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A realigned model in memory and how it came about.

    Args:
        seconds: CPU seconds of direction, scoring, training and, of that, the KL; peak_bytes: likewise but for the KL.
    """

    model: Any
    seconds: Seconds
    peak_bytes: dict[str, int]
    facts: dict[str, Any]


class Used:
    """What each phase of a cell took."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self.peak_bytes: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds this process' CPU seconds: with one thread they are what a free core would take, however busy the machine is."""
        started = time.process_time()
        with PeakMemory() as memory:
            yield
        self.add(name, time.process_time() - started)
        self.peak_bytes[name] = max(memory.peak_bytes, self.peak_bytes.get(name, 0))

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def trained(self, model: Any, facts: dict[str, Any]) -> Trained:
        return Trained(model, self.seconds, self.peak_bytes, facts)


def realign_cell(
    triaged: pa.Table,
    config: Config,
    on_step: Callable[[Any, Training], None] | None = None,
    on_start: Callable[[Any], None] | None = None,
) -> Trained:
    """Returns the model of one cell: scored, weighed and trained, with the cell's label noise laid over its corpus.

    Args:
        on_step: called with the model after each step; on_start: before the first one.
    """
    used = Used()
    model = new_adapter(load_model(config.model), config.lora, config.impact.seed).eval()
    noisy = noisy_table(triaged, config.corpus.noise)
    look = partial(on_step, model) if on_step else None
    if on_start:
        on_start(model)
    steps = step_budget(triaged["split"].to_pylist().count("train"), config.realign)
    with used.phase("direction"):
        direction = make_direction(model, noisy, config)
    with used.phase("scoring"):
        unweighed = score(model, noisy, direction, config)
    if config.objective.weights == "u2a":
        return used.trained(model, _rounds(model, noisy, unweighed, config, used, look))
    scored, facts = weigh(unweighed, config)
    with used.phase("training"):
        kl_seconds = train(model, scored, config.objective, replace(config.realign, max_steps=steps), look)
    used.add("kl", kl_seconds)
    return used.trained(model, facts | {"steps": steps})


def _rounds(
    model: Any,
    noisy: pa.Table,
    unweighed: pa.Table,
    config: Config,
    used: Used,
    look: Callable[[Training], None] | None,
) -> dict[str, Any]:
    """U2A's rounds: train, rescore where training ended, reweigh; each as long as its row of conf/methods or T_max says."""
    objective, realign, rescore = config.objective, config.realign, rescoring(config)
    weighed, facts = weigh(unweighed, rescore)
    chosen = weighed.take(pa.array(largest(weighed["impact"].to_numpy(), objective.u2a_pairs)))
    again = noisy.filter(pc.is_in(noisy["row"], chosen["row"].combine_chunks()))
    weight = np.ones(chosen.num_rows)
    each = realign.epochs * -(-chosen.num_rows // realign.batch)
    each = min(each, realign.max_steps) if realign.max_steps else each
    for number in range(objective.u2a_rounds):
        if number:
            with used.phase("direction"):
                direction = make_direction(model, noisy, config)
            with used.phase("scoring"):
                gain = gains(chosen, score(model, again, direction, rescore), objective)
            weight = reweighed(weight, gain, objective.u2a_eta)
        at = chosen.column_names.index("weight")
        table = chosen.set_column(at, "weight", pa.array(weight))
        turned = replace(realign, seed=realign.seed + number, max_steps=each)
        with used.phase("training"):
            kl_seconds = train(model, table, objective, turned, look)
        used.add("kl", kl_seconds)
    return facts | {"steps": each * objective.u2a_rounds}
