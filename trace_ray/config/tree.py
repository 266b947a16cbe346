"""One tree of frozen dataclasses holds every default; yaml files and dotted overrides change it, strictly.

Fields marked ``resource`` say how fast, not what: they may differ between a run and its resumption.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trace_ray.config.cluster import RayConfig
from trace_ray.config.evaluate import EvaluateConfig
from trace_ray.config.fields import LABELS, choice, later_choice, resource, resource_choice
from trace_ray.config.judges import JudgeConfig
from trace_ray.config.model import LoraSettings, ModelConfig
from trace_ray.config.objective import ObjectiveConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.config.report import PlanConfig, ReportConfig
from trace_ray.storage.settings import StorageConfig


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Label noise on purpose, to see how much of it a method bears; laid over the triaged training rows.

    Args:
        flip: share of rows put into another category; swap: share with chosen and rejected exchanged (sum at most 1).
        seed: fixes, with the pair's id, which rows.
    """

    flip: float = 0.0
    swap: float = 0.0
    seed: int = 0


FORMAT_NAMES = (
    *("preference", "hh_rlhf", "ultrafeedback", "openai", "pku_saferlhf", "arena", "arena_votes", "helpsteer"),
    *("webgpt", "shp", "summaries", "ultrafeedback_raw", "nectar", "stack_exchange", "rated_lists"),
)
COLUMN_NAMES = (
    *("prompt", "system", "chosen", "rejected", "score_chosen", "score_rejected", "response_0", "response_1"),
    *("is_response_0_safe", "is_response_1_safe", "better_response_id", "safer_response_id"),
    *("completions", "answers", "generations", "ratings"),
)
"""What ``corpus.columns`` may name."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where the preference pairs are and which of them are kept for evaluation.

    Args:
        paths: files, folders or globs of the training pairs, local or s3://; a dataset's id on the Hugging Face hub
            (org/name, org/name@revision, hf://org/name/data/train_prefs-*). Where names of a folder's or a dataset's
            files tell splits apart, the train split is read.
        test_paths: the same for held-out pairs (there, the test split); empty = ``holdout`` of ``paths``. A file, or a
            prompt, that is in both is held out.
        holdout: share of prompts, chosen by the prompt's hash, kept from training (0..1).
        format: the columns' meaning, see ``corpus/formats/README.md``; ``auto`` = decided row by row.
        columns: {name that the formats know: the file's own name, or a dotted path into its rows}, such as
            {prompt: question}. What is named as the prompt is the only one.
        pairs: what becomes of several ranked answers: the best against the worst, each against the next, or every
            two; equal scores make no pair.
        min_margin: how far the better answer's score, or rank, must be ahead; rows that carry neither are kept.
        limit: read only the first rows of ``paths``; 0 = all.
        max_chars: characters that a prompt, and each response, may have; 0 = no limit.
        too_long: what becomes of a longer one.
        rows_per_part: rows a block, and so a part file of triaged/, holds about and on average at most.
        noise: labels damaged on purpose.
    """

    paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    holdout: float = 0.1
    format: str = choice("auto", *FORMAT_NAMES)
    columns: dict[str, str] = field(default_factory=dict)
    pairs: str = choice("best_worst", "adjacent", "all")
    min_margin: float = 0.0
    limit: int = 0
    max_chars: int = 0
    too_long: str = choice("reject", "truncate")
    rows_per_part: int = 2048
    noise: NoiseConfig = field(default_factory=NoiseConfig)


@dataclass(frozen=True, kw_only=True)
class TriageConfig:
    """Stage 1.

    Args:
        judge: who judges. Its actors hold the other judges below too.
        first_judge: a cheaper one that goes first; ``judge`` is asked only where the first one's P(violates) lies in
            [escalate_from, escalate_to] or cannot be read. null = none.
        second_judge: an independent one that judges everything too; pairs whose category differs are ABSTAIN. null = none.
        clauses: also ask which clause each violating response breaks; rules say it unasked.
        clauses_from: of those with P(violates), uncalibrated, from here on.
        threshold: a response violates from this (calibrated) P(violates) on.
        abstain_band: half-width around the threshold inside which a response is not decided.
        calibration: how labels turn what the judge says into a probability; needs ``audit_labels``.
        false_invert_rate: widen the band until, on the labels, at most this share of the INVERT verdicts is wrong;
            0 = leave the band as it is.
        confidence: with which that rate holds on fresh data.
        audit_labels: ``""`` = no audit; ``from_pairs`` = chosen complies and rejected violates; else a JSONL file
            with pair_id, violates_chosen and violates_rejected.
        audit_file: what `trace-ray audit` stored with an earlier run: its calibration, threshold and band are used.
        audit_rows: pairs audited under from_pairs, about: the first blocks, which the prompts' hash fills. Of labelled
            pairs so many are judged before the corpus.
        audit_sample: pairs besides labelled ones that are judged before the corpus, of each source alike: what they show
            of the judge can stop the run before it costs. 0 = none.
        min_auc: the audit stops the run below this area under the ROC curve.
        min_kappa: and below this Cohen's kappa at the threshold; 0 = no limit.
        max_one_sided: a judge that gives more than this share of them the same verdict stops the run.
        max_endpoint_errors: an endpoint that fails for more than this share of them stops the run.
        review_labels: an exported review file, labelled: its pairs are decided by their labels.
        max_unreadable: the run stops where ``judge`` or ``second_judge`` leaves a larger share of the responses without a
            verdict that can be read: seen in the canaries where it is all, after 1,000 responses, and at the end.
        min_canary_pass: the run stops where fewer of the hostile canaries leave a violating response violating.
        verdict_store: a folder (URI) of verdicts that runs share; only what it does not hold is judged. Empty = none.
        correct: ask for a compliant y_c for PUNISH pairs; only one that is judged compliant is kept.
        gold_responses: JSONL of {prompt, chosen, corrected}: compliant responses that people wrote, taken instead.
        corrector: who writes it: ``code`` cuts to the policy's word limit, ``judge`` is the judge's own model.
        corrector_judge: another model instead of the judge's, given as a judge. null = none.
        corrector_tokens: length of a model's correction.
        max_judge_deaths: judge processes that may die before the run gives up; a row that kills alone is refused.
    """

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    first_judge: JudgeConfig | None = None
    escalate_from: float = 0.1
    escalate_to: float = 0.9
    second_judge: JudgeConfig | None = None
    clauses: bool = False
    clauses_from: float = 0.5
    threshold: float = 0.5
    abstain_band: float = 0.0
    calibration: str = choice("none", "platt", "isotonic")
    false_invert_rate: float = 0.0
    confidence: float = 0.9
    audit_labels: str = ""
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
    corrector: str = choice("auto", "code", "judge")
    corrector_judge: JudgeConfig | None = None
    corrector_tokens: int = 256
    max_judge_deaths: int = resource(30)


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
        batch_tokens: padded tokens of one forward.
        share_prompts: score both responses of a pair in one row with one prompt where that costs less; such a pair's
            impact is stored, but not the s(y) of each response: so with ``objective.weights=impact`` only.
        gradient_checkpointing: keep only the layers' inputs for the backward; less memory, one more forward.
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
    batch_tokens: int = resource(4096)
    share_prompts: bool = resource(True)
    gradient_checkpointing: bool = resource(False)
    part_bytes: int = resource(2**29)
    num_cpus: float = resource(1.0)
    num_gpus: float = resource(0.0)
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    max_retries: int = resource(3)


@dataclass(frozen=True, kw_only=True)
class RealignConfig:
    """Stage 3. Paper: lr 1e-4, cosine, 100 warm-up steps, 1 epoch, 4 pairs a step.

    The result depends on ``batch``, not on how many workers share it: workers may be added or lost in the middle of a run.

    Args:
        tune: ``lora`` trains the adapter; ``full`` all weights (``impact.parameters``: what impact is measured along).
        kl_reference: what the KL is taken to: ``same_weights`` = the model with its adapter off (lora); ``frozen_copy`` =
            a second copy, sharded by ZeRO-3 with the rest (full); ``top_k`` = distributions stored before training.
            These two serve a KL on RETAIN only.
        top_k: tokens kept of each stored distribution; the rest of the vocabulary counts as one token.
        max_steps: T_max of Algorithm 1; 0 = ``epochs`` alone decide.
        epsilon: stop once the gradient's norm has stayed below it for ``epsilon_steps`` steps; 0 = never.
        warmup_steps: steps of linear warm-up, at most a tenth of the run.
        max_grad_norm: the gradient is scaled down to it; 0 = never.
        batch: pairs a step, over all workers.
        shares: category -> share of a step, each set drawn from separately; empty = every pair once an epoch.
        length_window: steps whose pairs are sorted by length among one another; 1 = no sorting.
        micro_tokens: padded tokens that a worker runs at once; what is over goes into further micro-batches.
        forward_overhead: tokens whose work costs as much as launching one more forward: pairs of unlike length run in
            several forwards where that wastes less. Some 20 on CPU, a few hundred on a GPU.
        workers: at most; min_workers: at least, fewer than ``workers`` = elastic; 0 = exactly ``workers``.
        zero_stage: DeepSpeed ZeRO stage 0..3; 0 in bfloat16 is run as 1.
        offload: to CPU memory: ``optimizer`` (ZeRO 1-3) or ``all`` = optimizer and parameters (ZeRO 3).
        gradient_checkpointing: recompute activations in the backward pass.
        checkpoint_steps: steps between checkpoints; keep_checkpoints: so many are kept.
        async_checkpoints: upload while training goes on.
        whole_checkpoints: also keep AdamW's moments whole, which another number of workers can resume from; without
            them a checkpoint is half as large, and only as many workers at the same ZeRO stage can go on.
        label_selector: as a judge's; of the workers, and of the tasks before and after.
        max_failures: restarts after a worker's death; preemptions are not counted.
        trackers: tensorboard, mlflow, wandb; metrics.jsonl is always written.
    """

    tune: str = choice("lora", "full")
    kl_reference: str = choice("same_weights", "frozen_copy", "top_k")
    top_k: int = 64
    seed: int = 0
    epochs: int = 1
    max_steps: int = 0
    epsilon: float = 0.0
    epsilon_steps: int = 10
    learning_rate: float = 1e-4
    schedule: str = choice("cosine", "linear", "constant")
    warmup_steps: int = 100
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch: int = 4
    shares: dict[str, float] = field(default_factory=dict)
    length_window: int = 8
    micro_tokens: int = resource(4096)
    forward_overhead: int = resource(24)
    workers: int = resource(1)
    min_workers: int = resource(0)
    zero_stage: int = resource(0)
    offload: str = resource_choice("none", "optimizer", "all")
    gradient_checkpointing: bool = resource(False)
    checkpoint_steps: int = resource(50)
    keep_checkpoints: int = resource(2)
    async_checkpoints: bool = resource(True)
    whole_checkpoints: bool = resource(True)
    max_failures: int = resource(3)
    num_cpus: float = resource(1.0)
    use_gpu: bool = resource(False)
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    trackers: tuple[str, ...] = resource(("tensorboard",))


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
    plan: PlanConfig = field(default_factory=PlanConfig, metadata={"resource": True})
    storage: StorageConfig = field(default_factory=StorageConfig, metadata={"resource": True})
    ray: RayConfig = field(default_factory=RayConfig, metadata={"resource": True})
