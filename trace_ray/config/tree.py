"""One tree of frozen dataclasses holds every default; yaml files and dotted overrides change it, strictly.

Fields marked ``resource`` say how fast, not what: they may differ between a run and its resumption.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trace_ray.config.cluster import RayConfig
from trace_ray.config.corpus import CorpusConfig
from trace_ray.config.evaluate import EvaluateConfig
from trace_ray.config.fields import LATER, choice, later_choice, resource
from trace_ray.config.impact import ImpactConfig
from trace_ray.config.judges import JudgeConfig
from trace_ray.config.model import LoraSettings, ModelConfig
from trace_ray.config.objective import ObjectiveConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.config.realign import RealignConfig
from trace_ray.config.report import PlanConfig, ReportConfig
from trace_ray.config.rounds import RoundsConfig
from trace_ray.storage.settings import StorageConfig


@dataclass(frozen=True, kw_only=True)
class TriageConfig:
    """Stage 1.

    Args:
        judge: who judges. Its actors hold the other judges below too, but for a ``first_judge`` that reads.
        first_judge: a cheaper one that goes first; ``judge`` is asked only where the first one's P(violates) lies in
            [escalate_from, escalate_to] or cannot be read. Where both read they take turns: all blocks by the first one,
            with its own actors, max_actors and num_gpus, then what it is unsure of by ``judge``. null = none.
        distil_pairs: pairs that ``judge`` judges first where ``first_judge.backend`` is distilled: it learns from half of them.
        distil_agreement: it decides where, on the other half, at least this share of its verdicts is the judge's, and of
            what violates and what complies by the judge at least this share stays so, with ``confidence``; all else goes to
            the judge. At 0.97 and 0.9 that takes 76 of either kind there.
        second_judge: an independent one that judges everything too. null = none.
        third_judge: one more, beside ``second_judge``; it needs another ``combine`` than agree. null = none.
        third_asked: ``ties`` = it judges the responses of which one of the others says that they violate and the other
            that they do not, or nothing; ``all`` = everything.
        tie_at: P(violates), uncalibrated, from which a judge says so, where it is looked for ties.
        combine: how the judges' verdicts become one. ``agree`` = pairs whose category differs are ABSTAIN; ``majority`` = more
            than half of the judges that were asked of a response must say the same of it; ``dawid_skene`` = each
            vote counts for what its judge is worth, as all votes and ``audit_labels`` show: P(violates) is the panel's.
            That needs labels, or a third judge that is asked everything. Whoever says nothing agrees with nobody.
        clauses: also ask of each clause whether a violating response breaks it; rules say it unasked.
        clauses_from: of those with P(violates), uncalibrated, from here on; 0 = of all.
        threshold: a response violates from this (calibrated) P(violates) on.
        abstain_band: half-width around the threshold inside which a response is not decided.
        calibration: how labels turn what the judge says into a probability; needs ``audit_labels``.
        false_invert_rate: widen the band until, on the labels, at most this share of the INVERT verdicts is wrong;
            0 = leave the band as it is.
        confidence: with which that rate holds on fresh data.
        audit_labels: ``""`` = no audit; ``from_pairs`` = chosen complies and rejected violates; else a JSONL file
            with pair_id, violates_chosen and violates_rejected.
        audit_by: ``source`` = where the labels of a source suffice, it has a calibration, a band and a bound of its own; the
            others have those of all labels together, and the audit says which. ``clause`` = the same of the pairs whose
            chosen response most likely breaks a clause, as the judge has it; it must be asked for clauses.
        audit_file: what `trace-ray audit` stored with an earlier run: its calibration, threshold and band are used.
        audit_rows: pairs audited under from_pairs, about: the first blocks, which the prompts' hash fills. Of labelled
            pairs so many are judged before the corpus.
        audit_sample: pairs besides labelled ones that are judged before the corpus, of each source alike: what they show
            of the judge can stop the run before it costs. 0 = none.
        min_auc: the audit stops the run below this area under the ROC curve.
        min_kappa: and below this Cohen's kappa at the threshold; 0 = no limit.
        max_one_sided: a judge that gives more than this share of them the same verdict stops the run.
        max_endpoint_errors: an endpoint that fails for more than this share of them stops the run.
        review_labels: the run's review/, or a file of it, labelled: its pairs are decided by their labels.
        max_unreadable: the run stops where a judge leaves a larger share of the responses that it is asked of without
            a verdict that can be read: seen in the canaries where it is all, after 1,000 responses, and at the end.
        min_canary_pass: the run stops where fewer of the hostile canaries leave a violating response violating.
        verdict_store: a folder (URI) of verdicts that runs share; only what it does not hold is judged. Empty = none.
        correct: ask for a compliant y_c for PUNISH pairs; only one that is judged compliant is kept.
        gold_responses: JSONL of {prompt, chosen, corrected}: compliant responses that people wrote, taken instead.
        corrector: who writes it: ``code`` cuts to the policy's word limit, ``judge`` is the judge's own model, ``sample``
            draws answers of the model that is realigned, the policy in its system turn: the best compliant one is kept.
        corrector_judge: another model instead of the judge's, given as a judge. null = none. With ``sample``: how answers
            are drawn (samples, temperature, seed, max_model_len) and where; the model and its template are those of ``model``.
        corrector_tokens: length of a model's correction.
        max_judge_deaths: judge processes that may die before the run gives up; a row that kills alone is refused.
    """

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    first_judge: JudgeConfig | None = None
    escalate_from: float = 0.1
    escalate_to: float = 0.9
    distil_pairs: int = field(default=2000, metadata=LATER)
    distil_agreement: float = field(default=0.97, metadata=LATER)
    second_judge: JudgeConfig | None = None
    third_judge: JudgeConfig | None = field(default=None, metadata=LATER)
    third_asked: str = later_choice("ties", "all")
    tie_at: float = field(default=0.5, metadata=LATER)
    combine: str = later_choice("agree", "majority", "dawid_skene")
    clauses: bool = False
    clauses_from: float = 0.5
    threshold: float = 0.5
    abstain_band: float = 0.0
    calibration: str = choice("none", "platt", "isotonic")
    false_invert_rate: float = 0.0
    confidence: float = 0.9
    audit_labels: str = ""
    audit_by: str = later_choice("all", "source", "clause")
    audit_file: str = ""
    audit_rows: int = 2000
    audit_sample: int = resource(128)
    min_auc: float = 0.7
    min_kappa: float = resource(0.0)
    max_one_sided: float = resource(0.98)
    max_endpoint_errors: float = resource(0.2)
    review_labels: str = ""
    max_unreadable: float = resource(0.5)
    min_canary_pass: float = 0.5
    verdict_store: str = resource("")
    correct: bool = False
    gold_responses: str = ""
    corrector: str = choice("auto", "code", "judge", "sample")
    corrector_judge: JudgeConfig | None = None
    corrector_tokens: int = 256
    max_judge_deaths: int = resource(30)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run can be told."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    triage: TriageConfig = field(default_factory=TriageConfig)
    impact: ImpactConfig = field(default_factory=ImpactConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    realign: RealignConfig = field(default_factory=RealignConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    plan: PlanConfig = field(default_factory=PlanConfig, metadata={"resource": True})
    storage: StorageConfig = field(default_factory=StorageConfig, metadata={"resource": True})
    ray: RayConfig = field(default_factory=RayConfig, metadata={"resource": True})
