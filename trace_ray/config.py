"""One tree of frozen dataclasses holds every default; yaml files and dotted overrides change it, strictly.

Fields marked ``resource`` say how fast, not what: they may differ between a run and its resumption.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from trace_ray.policy import PolicyConfig


def choice(*values: str) -> Any:
    """A string field that takes one of ``values``; the first is the default. Checked by ``config_load``."""
    return field(default=values[0], metadata={"choices": values})


def resource(default: Any) -> Any:
    """A field that changes speed or place but no result."""
    return field(default=default, metadata={"resource": True})


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


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where the preference pairs are and which of them are kept for evaluation.

    Args:
        paths: files, folders or globs of the training pairs, local or s3://; a Hugging Face dataset's folder or id
            (org/name, org/name@revision, hf://org/name/data/train_prefs-*), of which the train split is read.
        test_paths: the same for held-out pairs (of a dataset, the test split); empty = ``holdout`` of ``paths``.
        holdout: share of prompts, chosen by the prompt's hash, kept from training (0..1).
        format: the columns' meaning, see ``corpus.rows.parse_row``; ``auto`` = decided row by row.
        limit: read only the first rows of ``paths``; 0 = all.
        max_chars: characters that a prompt, and each response, may have; 0 = no limit.
        too_long: what becomes of a longer one.
        rows_per_part: rows a block, and so a part file of triaged/, holds about and on average at most.
        noise: labels damaged on purpose.
    """

    paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    holdout: float = 0.1
    format: str = choice("auto", "preference", "hh_rlhf", "pku_saferlhf", "ultrafeedback")
    limit: int = 0
    max_chars: int = 0
    too_long: str = choice("reject", "truncate")
    rows_per_part: int = 2048
    noise: NoiseConfig = field(default_factory=NoiseConfig)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model to realign: a hub id or a folder in Hugging Face format, safetensors only.

    Args:
        max_length: tokens of prompt and response together, beyond which they are truncated.
    """

    path: str = ""
    revision: str = "main"
    dtype: str = choice("float32", "bfloat16")
    attention: str = choice("sdpa", "eager", "flash_attention_2")
    max_length: int = 256


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter that is trained. Paper: r 32, alpha 16, dropout 0.1 on q_proj and v_proj."""

    r: int = 32
    alpha: int = 16
    dropout: float = 0.1
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint that gives log-probs.

    Args:
        base_url: up to and including its version, such as http://host:8000/v1.
        api_key_env: the environment variable that holds the key; the key itself is in no file. Empty = no key.
        top_logprobs: alternatives of the first token asked for; most endpoints allow 20.
        concurrency: requests in flight from one actor.
        timeout_s: seconds one request may take.
        max_retries: further tries after a 429, a 5xx, a time-out or a broken connection.
        backoff_s: wait before the first of them; it doubles each time, with jitter, unless Retry-After says more.
        max_requests: requests a run may send, retries included, over all actors; 0 = no limit.
        max_tokens: tokens a run may use, prompts and answers; 0 = no limit.
    """

    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    top_logprobs: int = 20
    concurrency: int = resource(32)
    timeout_s: float = resource(60.0)
    max_retries: int = resource(6)
    backoff_s: float = resource(0.5)
    max_requests: int = resource(0)
    max_tokens: int = resource(0)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who says whether a response violates the policy.

    Args:
        backend: ``vllm`` reads, ``openai`` asks an endpoint, ``rules`` computes the clauses' rules exactly.
        model: hub id or folder of the judge (vllm), or the endpoint's name for it (openai).
        min_mass: least probability on the Yes and No tokens together for a verdict to count as readable.
        actors: judge actors kept at least; ``max_actors`` at most.
        kv_cache_gib: memory of the engine's key-value cache on CPU.
        engine: further arguments of the vLLM engine, such as tensor_parallel_size.
        batch_rows: responses judged in one call, and lost at most by a killed actor.
        endpoint: openai only.
    """

    backend: str = choice("vllm", "openai", "rules")
    model: str = ""
    revision: str = "main"
    dtype: str = choice("auto", "float32", "bfloat16")
    min_mass: float = 0.5
    max_model_len: int = 2048
    actors: int = resource(1)
    max_actors: int = resource(1)
    batch_rows: int = resource(256)
    num_cpus: float = resource(1.0)
    num_gpus: float = resource(0.0)
    kv_cache_gib: float = resource(1.0)
    engine: dict[str, Any] = field(default_factory=dict, metadata={"resource": True})
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


@dataclass(frozen=True, kw_only=True)
class TriageConfig:
    """Stage 1.

    Args:
        judge: who judges. Its actors hold the other judges below too.
        first_judge: a cheaper one that goes first; ``judge`` is asked only where the first one's P(violates) lies in
            [escalate_from, escalate_to] or cannot be read. null = none.
        second_judge: an independent one that judges everything too; pairs whose category differs are ABSTAIN. null = none.
        clauses: also ask which clause each violating response breaks.
        threshold: a response violates from this (calibrated) P(violates) on.
        abstain_band: half-width around the threshold inside which a response is not decided.
        calibration: how labels turn what the judge says into a probability; needs ``audit_labels``.
        false_invert_rate: widen the band until, on the labels, at most this share of the INVERT verdicts is wrong;
            0 = leave the band as it is.
        confidence: with which that rate holds on fresh data.
        audit_labels: ``""`` = no audit; ``from_pairs`` = chosen complies and rejected violates; else a JSONL file
            with pair_id, violates_chosen and violates_rejected.
        audit_file: what `trace-ray audit` stored with an earlier run: its calibration, threshold and band are used.
        audit_rows: pairs audited at most under from_pairs, and after which a bad judge is stopped early.
        min_auc: the audit stops the run below this area under the ROC curve.
        review_labels: an exported review file, labelled: its pairs are decided by their labels.
        min_canary_pass: the run stops where fewer of the hostile canaries leave a violating response violating.
        verdict_store: a folder (URI) of verdicts that runs share; only what it does not hold is judged. Empty = none.
        correct: ask for a compliant y_c for PUNISH pairs; only one that is judged compliant is kept.
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
    threshold: float = 0.5
    abstain_band: float = 0.0
    calibration: str = choice("none", "platt", "isotonic")
    false_invert_rate: float = 0.0
    confidence: float = 0.9
    audit_labels: str = ""
    audit_file: str = ""
    audit_rows: int = 2000
    min_auc: float = 0.7
    review_labels: str = ""
    min_canary_pass: float = 0.5
    verdict_store: str = resource("")
    correct: bool = False
    corrector: str = choice("auto", "code", "judge")
    corrector_judge: JudgeConfig | None = None
    corrector_tokens: int = 256
    max_judge_deaths: int = resource(30)


@dataclass(frozen=True, kw_only=True)
class ImpactConfig:
    """Stage 2.

    Args:
        gold_size: pairs of the gold batch (Algorithm 2).
        gamma: the paper's damping in v = g_J / gamma; cancels in the normalised weights.
        weight_norm: ``mean``: weights average 1 over the conflicts; ``sum`` (paper): they add up to 1.
        score_norm: ``none`` (paper) or ``per_token``: s(y) divided by the response's tokens.
        retain_per_conflict: RETAIN pairs kept for training per conflict, sampled by hash.
        shard_rows: triaged rows a scoring task takes.
        batch_tokens: padded tokens of one forward.
    """

    seed: int = 0
    gold_size: int = 64
    gamma: float = 1.0
    weight_norm: str = choice("mean", "sum")
    score_norm: str = choice("none", "per_token")
    retain_per_conflict: float = 1.0
    shard_rows: int = 256
    batch_tokens: int = resource(4096)
    num_cpus: float = resource(1.0)
    num_gpus: float = resource(0.0)
    max_retries: int = resource(3)


LOSSES = ("skip", "dpo", "ipo", "rdpo", "npo", "kl", "sft")


@dataclass(frozen=True, kw_only=True)
class TermConfig:
    """What is done with the pairs of one category: ``prefer`` is raised or anchored, ``suppress`` lowered.

    Responses are named chosen, rejected or corrected. dpo, ipo, rdpo: prefer one over the one in suppress;
    npo: suppress one or both; kl and sft: prefer only.
    """

    loss: str = field(default="skip", metadata={"choices": LOSSES})
    prefer: str = field(default="", metadata={"choices": ("", "chosen", "rejected", "corrected")})
    suppress: tuple[str, ...] = ()


def _invert() -> TermConfig:
    return TermConfig(loss="dpo", prefer="rejected", suppress=("chosen",))


def _punish() -> TermConfig:
    return TermConfig(loss="npo", suppress=("chosen", "rejected"))


def _retain() -> TermConfig:
    return TermConfig(loss="kl", prefer="chosen")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The hybrid objective as a table from category to loss; the default is TRACE.

    Args:
        weights: ``impact`` weighs each conflict by stage 2; ``uniform`` by 1.
        beta: scale of the log-ratios in dpo, rdpo and npo.
        alpha_kl: weight of the RETAIN term.
        tau: ipo's target margin is 1 / (2 tau).
        length_norm: ipo on per-token means instead of sums.
        label_noise: rdpo's e, in [0, 1/2).
        npo_scale: multiply npo by 2 / beta, as in its paper.
    """

    method: str = "trace"
    INVERT: TermConfig = field(default_factory=_invert)
    PUNISH: TermConfig = field(default_factory=_punish)
    RETAIN: TermConfig = field(default_factory=_retain)
    weights: str = choice("impact", "uniform")
    beta: float = 0.3
    alpha_kl: float = 0.1
    tau: float = 0.3
    length_norm: bool = False
    label_noise: float = 0.0
    npo_scale: bool = False


@dataclass(frozen=True, kw_only=True)
class RealignConfig:
    """Stage 3. Paper: lr 1e-4, cosine, 100 warm-up steps, 1 epoch, batch 1 x 4.


    Args:
        micro_batch: pairs of one forward and backward on one worker.
        accumulation: micro-batches a step on one worker.
        warmup_steps: steps of linear warm-up, at most a tenth of the run.
        checkpoint_steps: steps between checkpoints.
        zero_stage: DeepSpeed ZeRO stage 0..3.
    """

    seed: int = 0
    epochs: int = 1
    learning_rate: float = 1e-4
    schedule: str = choice("cosine", "linear", "constant")
    warmup_steps: int = 100
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch: int = 4
    accumulation: int = 1
    workers: int = 1
    zero_stage: int = 0
    checkpoint_steps: int = resource(50)
    keep_checkpoints: int = resource(2)
    max_failures: int = resource(3)
    num_cpus: float = resource(1.0)
    use_gpu: bool = resource(False)


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
        prompts: held-out prompts at most, the first by hash; 0 = all.
        prompt_file: own prompts instead of the held-out ones: CSV or JSONL with prompt and, if known, source and category.
        max_new_tokens: length of a greedy answer.
        resamples: bootstrap resamples of an interval; seed: of that and of nothing else.
        panel: judges that compare answers blind (`trace-ray rate panel`); no part of this stage's own figures.
        drift_pairs: RETAIN pairs whose answers show the drift from the base, held-out ones first; 0 = not measured.
        batch_tokens: padded tokens of one forward when drift is measured.
    """

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    prompts: int = 0
    prompt_file: str = ""
    max_new_tokens: int = 256
    resamples: int = 2000
    seed: int = 0
    attacks: AttackConfig = field(default_factory=AttackConfig)
    drift_pairs: int = 128
    capability: CapabilityConfig = field(default_factory=CapabilityConfig)
    panel: list[JudgeConfig] = field(default_factory=list, metadata={"resource": True})
    batch_tokens: int = resource(4096)
    num_cpus: float = resource(1.0)
    num_gpus: float = resource(0.0)
    kv_cache_gib: float = resource(1.0)
    engine: dict[str, Any] = field(default_factory=dict, metadata={"resource": True})


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Stage 5.

    Args:
        top_pairs: conflicts of highest impact shown.
        examples: held-out prompts whose answers are shown side by side.
        redact: texts of the corpus and of answers are shown, ``hide``: behind a click, or ``omit``: not in the file at all.
    """

    top_pairs: int = 100
    examples: int = 40
    redact: str = choice("none", "hide", "omit")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What `trace-ray plan` may assume. Rates of 0 are measured here; give those of the machines that will run it.

    Args:
        sample_rows: pairs that are read and tokenised.
        invert_share: share of INVERT pairs where only a model can judge them; punish_share: of PUNISH pairs.
        measure: load the models and time them, a minute or two; without it all rates below are needed.
        judge_tokens_s: prompt tokens a second of one judge actor.
        answer_tokens_s: generated tokens a second of one engine.
        forward_tokens_s: of the policy model without gradients on one worker; train_tokens_s: with them.
        cpus: of the cluster; 0 = of this machine. gpus: of the cluster.
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
    cpus: float = 0.0
    gpus: float = 0.0
    cpu_hour_price: float = 0.0
    gpu_hour_price: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How s3:// is reached; credentials come from the default chain only (role, profile, environment), never from here.

    Args:
        endpoint: of another S3 than AWS; empty = AWS_ENDPOINT_URL or AWS.
        anonymous: sign nothing: public buckets.
        max_attempts: tries of one request, with growing pauses, where S3 throttles, fails or is not reached.
        cache: this node's folder for copies of what is in S3; empty = TRACE_RAY_CACHE or ~/.cache/trace-ray.
    """

    endpoint: str = ""
    region: str = ""
    anonymous: bool = False
    max_attempts: int = 10
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    cache: str = ""


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Which cluster: empty = the one this process belongs to (RAY_ADDRESS), else a local one."""

    address: str = ""
    local_cpus: int = 0


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


def settings(node: Any, prefix: str) -> dict[str, Any]:
    """Returns {dotted name: value} of every setting below ``node`` that can change a result.

    >>> settings(ReportConfig(), "report")
    {'report.top_pairs': 100, 'report.examples': 40, 'report.redact': 'none'}
    """
    flat: dict[str, Any] = {}
    for item in fields(node):
        if item.metadata.get("resource"):
            continue
        value, name = getattr(node, item.name), f"{prefix}.{item.name}"
        if is_dataclass(value):
            flat |= settings(value, name)
        elif isinstance(value, (list, tuple)):
            flat[name] = repr(list(value))
        else:
            flat[name] = value
    return flat


def default_of(cls: type, name: str) -> Any:
    """Returns the default of one field, for help texts and reference tables."""
    item = next(f for f in fields(cls) if f.name == name)
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else None
