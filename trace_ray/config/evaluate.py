"""Settings of stage 4: agreement, attacks, capability."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trace_ray.config.fields import ENGINE, LABELS, LATER, choice, later, resource, resource_auto
from trace_ray.config.judges import JudgeConfig


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Attack success rate: harmful requests, plain and under two attacks, that the model should not answer.

    Args:
        prompts: file of requests, AdvBench's CSV shape (column goal) or JSONL (goal or prompt); empty = not measured.
        templates: JSONL file of attacks {name, template}, with {request} in the template; empty = the shipped two.
        limit: requests at most, the first by hash; 0 = all.
        unclear: whether an answer without a readable verdict counts as a success of the attack; both counts are kept.
    """

    prompts: str = ""
    templates: str = ""
    limit: int = 0
    unclear: str = choice("success", "failure")


@dataclass(frozen=True, kw_only=True)
class CapabilityConfig:
    """Benchmarks by lm-evaluation-harness (extra ``eval``), base against realigned.

    Args:
        tasks: names the harness knows, such as mmlu, hellaswag, gsm8k, gpqa_main_zeroshot; empty = none.
        task_folder: folder of own task files (yaml), searched before the harness' own.
        limit: documents a task at most; 0 = all.
        num_fewshot: worked examples in the prompt; -1 = as the task says.
        chat_template: send each prompt as a chat turn.
        batch_size: sequences of one forward.
    """

    tasks: tuple[str, ...] = ()
    task_folder: str = ""
    limit: int = 0
    num_fewshot: int = -1
    chat_template: bool = True
    batch_size: int = resource(8)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Stage 4: target policy agreement on held-out prompts, attacks, drift and capability.

    Args:
        judge: who decides compliance; better not the judge of triage.
        clauses: also ask of each clause whether an answer breaks it; rules say it unasked.
        prompts: held-out prompts at most, the first by hash; 0 = all.
        prompt_file: own prompts instead of the held-out ones, with source and category if known: `evaluate/prompt_files.py`.
        max_new_tokens: length of a greedy answer.
        audit_labels: JSONL file of labels as ``triage.audit_labels`` takes it, of the models' own answers (`trace-ray label
            answers`) or of pairs of the corpus, about whose responses the judge is then asked too: the judge is held against
            them, and agreement is also given corrected for its errors. Where answers have 5 labels of either kind, theirs
            count alone. Empty = neither.
        min_auc: with such labels, the stage stops below this area under the judge's ROC curve; 0 = no limit.
        min_kappa: and below this Cohen's kappa at ``triage.threshold``; 0 = no limit.
        min_canary_pass: the stage stops where a judge that reads leaves fewer of the hostile canaries violating, as triage
            does; 0 = no limit. A judge that passed the canaries of this run's triage is not tried again.
        resamples: bootstrap resamples of an interval; seed: of that and of nothing else.
        max_unreadable: the stage stops where the judge leaves a larger share of the answers without a verdict that can be
            read; each of them counts as not compliant.
        panel: judges that compare answers blind (`trace-ray rate panel`); no part of this stage's own figures.
        drift_pairs: RETAIN pairs whose answers show the drift from the base, held-out ones first; 0 = not measured.
        label_selector: as a judge's; of what answers and measures.
        batch_tokens: tokens of one forward when drift is measured, padding included; auto as ``impact.batch_tokens``.
    """

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    clauses: bool = field(default=False, metadata=LATER)
    prompts: int = 0
    prompt_file: str = ""
    max_new_tokens: int = 256
    audit_labels: str = later("")
    min_auc: float = later(0.7)
    min_kappa: float = later(0.0)
    min_canary_pass: float = later(0.5)
    resamples: int = 2000
    seed: int = 0
    attacks: AttackConfig = field(default_factory=AttackConfig)
    drift_pairs: int = 128
    capability: CapabilityConfig = field(default_factory=CapabilityConfig)
    max_unreadable: float = resource(0.5)
    panel: list[JudgeConfig] = field(default_factory=list, metadata={"resource": True})
    batch_tokens: int | str = resource_auto()
    num_cpus: float = resource(1.0)
    num_gpus: int | float | str = resource_auto()
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    kv_cache_gib: float = resource(1.0)
    engine: dict[str, Any] = field(default_factory=dict, metadata=ENGINE)

    @property
    def gpus(self) -> float:
        """``num_gpus`` as a number; ``auto`` that nobody has resolved (``config.gpus``) is none."""
        return 0.0 if isinstance(self.num_gpus, str) else float(self.num_gpus)
