"""Settings of stage 2."""

from __future__ import annotations

from dataclasses import dataclass, field

from trace_ray.config.fields import (
    CPU_TOKENS,
    LABELS,
    SELECTIVE,
    choice,
    later_choice,
    resource,
    resource_auto,
    resource_switch,
)


@dataclass(frozen=True, kw_only=True)
class ImpactConfig:
    """Stage 2.

    Args:
        parameters: what is trained, and so scored: ``lora`` (the adapter of ``lora``) or ``full`` (every weight).
        gold_size: pairs of the gold batch (Algorithm 2).
        gamma: the damping; in v = g_J / gamma (paper) it cancels in the normalised weights, in gauss_newton it does not.
        curvature: ``identity`` (paper): v = g_J / gamma; ``gauss_newton``: v = (G + gamma I)^-1 g_J, G the Gauss-Newton
            matrix of the RETAIN term's token KL.
        curvature_pairs: RETAIN pairs that make up G, the first by hash.
        cg_tolerance: conjugate gradients stop where |residual| <= this x |g_J|.
        cg_iterations: products at most; a solve that has not reached the tolerance by then stops the run.
        weight_norm: ``mean``: weights average 1 over the conflicts; ``sum`` (paper): they add up to 1.
        weigh_within: ``all`` (paper): one normalisation over all conflicts; ``category``: one for each, so that INVERT's
            weights average what PUNISH's do, whatever the sizes of their impacts.
        score_norm: ``none`` (paper); ``per_token``: s(y) divided by the response's tokens; ``cosine``: the impact divided
            by |v| |grad l_i| (lora only).
        retain_per_conflict: RETAIN pairs kept for training per conflict, sampled by hash.
        shard_rows: triaged rows a scoring task takes.
        batch_tokens: tokens of one forward, padding included; auto = on a GPU what two small trials show to fit it, halved
            where a batch does not fit after all; 4,096 on a CPU.
        share_prompts: score both responses of a pair in one row with one prompt where that costs less; such a pair's
            impact is stored, but not the s(y) of each response: so with ``objective.weights=impact`` only.
        gradient_checkpointing: keep only the layers' inputs for the backward; less memory, one more forward. selective: keep
            what attention and the narrower linears give too, and run the rest again: between both.
        part_bytes: size of one stored part of the direction.
        label_selector: as a judge's.
    """

    seed: int = 0
    parameters: str = choice("lora", "full")
    gold_size: int = 64
    gamma: float = 1.0
    curvature: str = choice("identity", "gauss_newton")
    curvature_pairs: int = 64
    cg_tolerance: float = 1e-4
    cg_iterations: int = 100
    weight_norm: str = choice("mean", "sum")
    weigh_within: str = later_choice("all", "category")
    score_norm: str = choice("none", "per_token", "cosine")
    retain_per_conflict: float = 1.0
    shard_rows: int = 256
    batch_tokens: int | str = resource_auto()
    share_prompts: bool = resource(True)
    gradient_checkpointing: bool | str = resource_switch(SELECTIVE)
    part_bytes: int = resource(2**29)
    num_cpus: float = resource(1.0)
    num_gpus: int | float | str = resource_auto()
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    max_retries: int = resource(3)

    @property
    def gpus(self) -> float:
        """``num_gpus`` as a number; ``auto`` that nobody has resolved (``config.gpus``) is none."""
        return 0.0 if isinstance(self.num_gpus, str) else float(self.num_gpus)

    @property
    def tokens(self) -> int:
        """``batch_tokens`` as a number; ``auto`` that nobody has found out on a device is what a CPU takes."""
        return CPU_TOKENS if isinstance(self.batch_tokens, str) else self.batch_tokens
