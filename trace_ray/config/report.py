"""Settings of stage 5 and of the plan before stage 1."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.config.fields import choice


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Stage 5.

    Args:
        top_pairs: conflicts of highest weight shown; sample: pairs beside them, of every category and split in turn.
        examples: held-out prompts whose answers are shown side by side.
        redact: texts of the corpus and of answers are shown, ``hide``: behind a click, or ``omit``: not in the file at all.
        target: percent of the answers to held-out prompts that are to comply before the page says that a model can ship.
        max_drift: KL to the base on answers to keep, in nats a token, from which on the model counts as damaged; 0 = none.
        max_perplexity: likewise of these answers' perplexity, as a multiple of the base's; 0 = none.
        min_diversity: likewise of the share of word pairs that an answer does not repeat, below this part of the base's.
    """

    top_pairs: int = 100
    sample: int = 200
    examples: int = 40
    redact: str = choice("none", "hide", "omit")
    target: float = 90.0
    max_drift: float = 0.5
    max_perplexity: float = 2.0
    min_diversity: float = 0.5


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What `trace-ray plan` may assume. Rates of 0 are measured here; give those of the machines that will run it.

    Args:
        sample_rows: pairs that are read and tokenised.
        invert_share: share of INVERT pairs where only a model can judge them; punish_share: of PUNISH pairs.
        measure: load the models and time them, a minute or two; without it all rates below are needed.
        judge_tokens_s: prompt tokens a second of every judge, of one actor. An endpoint's is never measured: without it, no
            time is given for a stage that asks one.
        answer_tokens_s: generated tokens a second of one engine, and of a judge or an endpoint that writes corrections.
        forward_tokens_s: of the policy model without gradients on one worker; train_tokens_s: with them.
        manifest: a RayCluster, RayJob or launcher file (clusters/): what a run asks for at once must fit its worker groups.
        cpus, gpus: of the cluster; 0 = what the manifest's groups hold at most, else of this machine.
        gpu_gib: memory of one card, against which stages 2 and 3 are held; 0 = that of this machine's, if it has one.
        cpu_hour_price: of one core, any currency; gpu_hour_price: of one GPU.
    """

    sample_rows: int = 400
    invert_share: float = 0.1
    punish_share: float = 0.1
    measure: bool = True
    judge_tokens_s: float = 0.0
    answer_tokens_s: float = 0.0
    forward_tokens_s: float = 0.0
    train_tokens_s: float = 0.0
    manifest: str = ""
    cpus: float = 0.0
    gpus: float = 0.0
    gpu_gib: float = 0.0
    cpu_hour_price: float = 0.0
    gpu_hour_price: float = 0.0
