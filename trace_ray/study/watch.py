"""Looks at a cell's model in the course of its training, and which of them a selection would have kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from trace_ray.config import Config
from trace_ray.model.modes import training_mode
from trace_ray.pairs import Split
from trace_ray.realign.training import Training
from trace_ray.runs.validations import Validation
from trace_ray.selection.choose import choose
from trace_ray.study.measure import answered, drifted
from trace_ray.synth.oracle import CHANGED

Row = dict[str, Any]


class Watch:
    """Measures a model so many times at equal distances, before the first step too.

    Args:
        triaged: the judged corpus. Of each source's test prompts every other one serves a selection, the rest show what it is
            worth.
        looks: after the last step too.
    """

    def __init__(self, triaged: Sequence[Row], config: Config, looks: int) -> None:
        self.test = [row for row in triaged if row["split"] == Split.TEST]
        self.config, self.looks = config, looks
        met: Counter[str] = Counter()
        self.chooses: list[bool] = []
        """Whether a test prompt serves the selection."""
        for row in self.test:
            self.chooses.append(met[row["source"]] % 2 == 0)
            met[row["source"]] += 1
        self.seen: list[dict[str, Any]] = []
        """step, right (one for each test prompt) and kl, of each look."""

    def start(self, model: Any) -> None:
        """Measures the model as it is before training: its adapter does nothing yet."""
        self._look(model, 0)

    def after_step(self, model: Any, training: Training) -> None:
        if training.step * self.looks % training.plan.steps == 0:
            model.eval()
            self._look(model, training.step)
            training_mode(model)

    def _look(self, model: Any, step: int) -> None:
        _, right = answered(model, self.test, self.config)
        self.seen.append({"step": step, "right": right, "kl": drifted(model, self.test, self.config)["kl_to_base"]})

    def figures(self) -> dict[str, Any]:
        """Returns ``path``: TPA, kept and KL of each look; and TPA on the other half of the prompts, chosen and last."""
        path = [{"step": at["step"], "kl": at["kl"], **self._agreement(at["right"])} for at in self.seen]
        kept = choose([self._validation(at) for at in self.seen], self.config.realign.select).step
        halves = {at["step"]: 100 * mean(right for right, chose in self._half(at) if not chose) for at in self.seen}
        kl = next(at["kl"] for at in self.seen if at["step"] == kept)
        selected = {"step": kept, "kl": kl, "tpa": halves[kept], "tpa_last": halves[self.seen[-1]["step"]]}
        return {"path": path, "selected": selected}

    def _agreement(self, right: Sequence[bool]) -> dict[str, float]:
        kept = [r for r, row in zip(right, self.test, strict=True) if row["source"] != CHANGED]
        return {"tpa": 100 * mean(right), "kept": 100 * mean(kept)}

    def _half(self, at: dict[str, Any]) -> Iterable[tuple[bool, bool]]:
        return zip(at["right"], self.chooses, strict=True)

    def _validation(self, at: dict[str, Any]) -> Validation:
        groups: dict[str, list[bool]] = {"all": []}
        for (right, chose), row in zip(self._half(at), self.test, strict=True):
            for name in ("all", row["source"]) if chose else ():
                groups.setdefault(name, []).append(right)
        share = {name: 100 * mean(values) for name, values in groups.items()}
        asked = {name: len(values) for name, values in groups.items()}
        return Validation(step=at["step"], adapter="", tpa=share, prompts=asked, drift=at["kl"], seconds=0.0, tokens=0)
