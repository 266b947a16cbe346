"""What the study runs: a cell is one method on one corpus with one seed; a plan is a list of cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.synth.demo import MODELS

SIZES = (300, 900, 2700)
SEEDS = (0, 1, 2, 3, 4)
METHODS = ("trace", "trace_oracle", "naive_oracle_dpo", "dpo_gold", "rdpo", "npo", "u2a")
ABLATIONS = ("no_triage", "no_retain", "no_impact")
NOISE_RATES = (0.1, 0.2)
NOISE_METHODS = ("trace", "no_impact", "dpo_gold", "u2a", "naive_oracle_dpo")
T_MAX = 60
"""Optimizer steps of every cell, whatever its size: Algorithm 1's T_max. U2A takes as many in each of its rounds."""

RATES = tuple(round(1e-4 * 2 ** (k / 2), 6) for k in range(2, 9))
TUNING_SEEDS = (100, 101)
BALANCED = "balanced"
TUNED = (*((method, "") for method in (*METHODS, *ABLATIONS)), ("naive_oracle_dpo", BALANCED))
"""Each of these is tried at every learning rate on worlds of seeds that nothing else uses: ``tuning.py``. The rates are the
paper's 1e-4 times powers of the square root of 2; at that and below nothing is learned in 60 steps by anyone."""

HOLD_METHODS = (
    *("trace_hold", "trace_hold_oracle", "trace_hold_npo", "trace", "trace_oracle"),
    *("naive_oracle_dpo", "npo", "dpop", "undial", "simnpo"),
)
HOLD_RATES = RATES[1:6]
HOLD_LENGTHS = {"": 3, "180 steps": 6, "540 steps": 9}
"""Trainings of T_MAX steps and of these, and how often the model is looked at on the way."""
HOLD_TIMES = (0.5, 2.0)
"""Multiples of the tuned rate, in trainings of 180 steps."""
HOLD_NOISE = 0.2

VARIANTS: dict[str, tuple[str, ...]] = {
    "weight_norm sum": ("impact.weight_norm=sum",),
    "ipo_sum": ("objective.INVERT.loss=ipo_sum",),
    "ipo_sum, tau 0.1": ("objective.INVERT.loss=ipo_sum", "objective.tau=0.1"),
    "gauss_newton": ("impact.curvature=gauss_newton",),
    "alpha_kl 0": ("objective.alpha_kl=0",),
    "one epoch": ("realign.max_steps=0",),
    "180 steps": ("realign.max_steps=180",),
    "540 steps": ("realign.max_steps=540",),
    "20 steps": ("realign.max_steps=20",),
    "sft, 180 steps": (
        "objective.INVERT.loss=sft",
        "objective.INVERT.suppress=[]",
        "realign.max_steps=180",
    ),
    BALANCED: ("objective.retain=anchor", "objective.alpha_kl=1"),
    f"{BALANCED}, 180 steps": ("objective.retain=anchor", "objective.alpha_kl=1", "realign.max_steps=180"),
}
"""A method with settings changed. TRACE's own are weight_norm mean, dpo and curvature identity; ``balanced`` is a DPO baseline
in which all conflicts together weigh as much as all RETAIN pairs together, not each pair as each other. ``sft`` raises what
dpo would prefer, without pushing anything down: dpo and npo lower every response of a conflict's prompt in the end. ipo_sum's
margin is 1 / (2 tau): 1.7 nats with tau 0.3, where a refusal's first word leads by 2.2 in the base. ``alpha_kl 0`` is trace
without the KL that still draws its RETAIN pairs: no_retain has none to draw, and sees each conflict five times as often."""

AT_EVERY_SIZE = (
    ("trace", "weight_norm sum"),
    ("trace", "one epoch"),
    ("trace", "alpha_kl 0"),
    ("naive_oracle_dpo", "one epoch"),
    ("naive_oracle_dpo", BALANCED),
)
AT_THE_MIDDLE = (
    ("trace", "ipo_sum"),
    ("trace", "ipo_sum, tau 0.1"),
    ("trace", "gauss_newton"),
)
LENGTHS = (
    ("trace", "180 steps"),
    ("trace", "sft, 180 steps"),
    ("naive_oracle_dpo", "180 steps"),
    ("naive_oracle_dpo", f"{BALANCED}, 180 steps"),
    ("dpo_gold", "180 steps"),
    ("npo", "20 steps"),
    ("u2a", "20 steps"),
)
"""What could change the comparison, at the middle size: longer trainings, and shorter ones for what has no anchor."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the study.

    Args:
        method: a row of conf/methods; pairs: of the training corpus; seed: of corpus, adapter and order.
        noise: share of triage's labels damaged, half of them flipped and half swapped.
        variant: a name of ``VARIANTS``, or empty.
        rate: learning rate; None = the demo's; times: of which this multiple is taken.
        looks: how often the model is measured in the course of training, at equal distances.
        overrides: further settings, the same for all cells of a study.
    """

    method: str
    pairs: int
    seed: int
    noise: float = 0.0
    variant: str = ""
    rate: float | None = None
    times: float = 1.0
    looks: int = 0
    overrides: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """What the tables call it: method, variant and multiple of the rate."""
        return f"{self.method} {self.variant}{'' if self.times == 1 else f', {self.times:g} x rate'}".strip()

    @property
    def recipe(self) -> str:
        """What a learning rate is chosen for: the method; conflicts that weigh more make it another one."""
        return f"{self.method} {BALANCED}" if self.variant.startswith(BALANCED) else self.method

    @property
    def name(self) -> str:
        """Returns a file name; it tells apart all cells of one code (``run.results_folder``)."""
        settings = [VARIANTS.get(self.variant), self.overrides, self.rate, self.times, self.looks]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
        noise = f"-noise{round(100 * self.noise)}" if self.noise else ""
        return f"{self.label.replace(' ', '-')}-n{self.pairs}{noise}-seed{self.seed}-{digest}"

    def config(self) -> Config:
        """Returns the demo's configuration with this cell's method, seed, noise and variant."""
        settings = [
            f"model.path={MODELS / 'policy'}",
            f"realign.max_steps={T_MAX}",
            "triage.correct=true",  # the study lends every PUNISH pair a right answer; only some methods read it
            f"impact.seed={self.seed}",
            f"realign.seed={self.seed}",
            f"corpus.noise.seed={self.seed}",
            f"corpus.noise.flip={self.noise / 2}",
            f"corpus.noise.swap={self.noise / 2}",
            *([] if self.rate is None else [f"realign.learning_rate={self.rate * self.times}"]),
            *VARIANTS.get(self.variant, ()),
            *self.overrides,
        ]
        return load_config([conf_folder() / "examples" / "demo.yaml"], settings, self.method)


def full_plan() -> Iterator[Cell]:
    """Yields the paper's comparison: every method at every size, ablations, noise and variants."""
    middle = SIZES[1]
    for seed in SEEDS:
        yield from (Cell(method=m, pairs=n, seed=seed) for n in SIZES for m in (*METHODS, *ABLATIONS))
        yield from (Cell(method=m, pairs=middle, seed=seed, noise=r) for m in NOISE_METHODS for r in NOISE_RATES)
        yield from (Cell(method=m, pairs=n, seed=seed, variant=v) for n in SIZES for m, v in AT_EVERY_SIZE)
        yield from (Cell(method=m, pairs=middle, seed=seed, variant=v) for m, v in (*AT_THE_MIDDLE, *LENGTHS))


def reduced_plan() -> Iterator[Cell]:
    """Yields the comparison at the middle size alone, without noise: a third of the time."""
    for seed in SEEDS:
        yield from (Cell(method=m, pairs=SIZES[1], seed=seed) for m in (*METHODS, *ABLATIONS))
        yield from (Cell(method=m, pairs=SIZES[1], seed=seed, variant=v) for m, v in LENGTHS)


def hold_plan() -> Iterator[Cell]:
    """Yields every method in trainings of 60, 180 and 540 steps, at multiples of its tuned rate, and on damaged labels."""
    long = "180 steps"
    kinds = [(variant, 1.0, 0.0) for variant in HOLD_LENGTHS]
    kinds += [*((long, times, 0.0) for times in HOLD_TIMES), (long, 1.0, HOLD_NOISE)]
    for method, seed, (variant, times, noise) in product(HOLD_METHODS, SEEDS, kinds):
        looks = HOLD_LENGTHS[variant]
        yield Cell(method=method, pairs=SIZES[1], seed=seed, variant=variant, looks=looks, times=times, noise=noise)


def tuning_plan(plan: str) -> Iterator[Cell]:
    """Yields every method of a plan at every learning rate, on worlds that the plans themselves do not use."""
    held = tuple((method, "") for method in HOLD_METHODS)
    tuned, rates = (held, HOLD_RATES) if plan == "hold" else (TUNED, RATES)
    for seed, (method, variant), rate in product(TUNING_SEEDS, tuned, rates):
        yield Cell(method=method, variant=variant, pairs=SIZES[1], seed=seed, rate=rate)


PLANS = {"full": full_plan, "reduced": reduced_plan, "hold": hold_plan}


def of_methods(plan: str, methods: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """Returns (tuning, plan): the cells of these methods, and with an ablation trace's tuning, whose rate it keeps.

    Args:
        methods: none = all of the plan's.

    Raises: ValueError with those that the plan does not have.
    """
    cells = list(PLANS[plan]())
    known = dict.fromkeys(cell.method for cell in cells)
    if unknown := [name for name in methods if name not in known]:
        raise ValueError(f"{','.join(unknown)}: not in this plan, which has {', '.join(known)}")
    asked = set(methods or known)
    tuned = asked | ({"trace"} if asked & set(ABLATIONS) else set())
    return [c for c in tuning_plan(plan) if c.method in tuned], [c for c in cells if c.method in asked]
