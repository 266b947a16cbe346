"""Settings of stage 3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trace_ray.config.fields import (
    CPU_TOKENS,
    LABELS,
    LATER,
    SELECTIVE,
    choice,
    later,
    resource,
    resource_auto,
    resource_choice,
    resource_switch,
)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which step of the training is kept: by answers to dev prompts, held-out ones that the evaluation then leaves out.

    Every candidate answers them as the evaluation's model does (``evaluate``: tokens, engine, judge). The one with the most
    compliant answers is kept, the earliest of equals; step 0, the model as it was, among them.

    Args:
        steps: between two candidates; the last step is one too. 0 = no selection, the last step is kept.
        prompts: dev prompts at most; of each category and source alike, and at most half of its held-out prompts.
        seed: fixes which.
        patience: candidates in a row that are not kept, after which the training stops; 0 = never.
        max_drift: KL to the base on answers to keep, in nats a token, above which no candidate is kept; 0 = no limit.
        max_category_loss: points of compliance that a candidate may lose in a category against step 0.
        scales: at the end the kept adapter is measured at these scales too, such as [0.3, 0.5, 0.7], and the best is kept, of
            equals the smallest: a part of what was trained, with a part of its drift. Where no candidate is within budget, the
            best one beyond it is tried.
    """

    steps: int = later(0)
    prompts: int = later(128)
    seed: int = later(0)
    patience: int = later(0)
    max_drift: float = later(0.5)
    max_category_loss: float = later(5.0)
    scales: tuple[float, ...] = later(())


@dataclass(frozen=True, kw_only=True)
class RealignConfig:
    """Stage 3. Paper: lr 1e-4, cosine, 100 warm-up steps, 1 epoch, 4 pairs a step.

    The result depends on ``batch``, not on how many workers share it: workers may be added or lost in the middle of a run.

    Args:
        tune: ``lora`` trains the adapter; ``full`` all weights (``impact.parameters``: what impact is measured along).
        kl_reference: what the KL is taken to: ``same_weights`` = the model with its adapter off (lora); ``frozen_copy`` =
            a second copy, sharded by ZeRO-3 with the rest (full); ``top_k`` = distributions stored before training, the
            likeliest tokens alone; ``hidden`` = exact, the hidden states before the head stored before training (lora).
            These two serve what compares on RETAIN only.
        top_k: tokens kept of each stored distribution; the rest of the vocabulary counts as one token.
        max_steps: T_max of Algorithm 1; 0 = ``epochs`` alone decide.
        epsilon: stop once the gradient's norm has stayed below it for ``epsilon_steps`` steps; 0 = never.
        warmup_steps: steps of linear warm-up, at most a tenth of the run.
        max_grad_norm: the gradient is scaled down to it; 0 = never.
        max_displacement: nats of a response, on the mean of 10 steps, by which what is preferred may sink below the reference
            before the training counts as displaced: a warning, and no end by ``epsilon``; 0 = never. Ten nats make a response
            22,000 times less likely, whatever its length. Less may be too much: on real long answers a model fell below its
            base with what was preferred 3 nats down, of which the default says nothing.
        batch: pairs a step, over all workers.
        shares: category -> share of a step, each set drawn from separately; empty = every pair once an epoch.
        length_window: steps whose pairs are sorted by length among one another; 1 = no sorting.
        micro_tokens: tokens that a worker runs at once, padding included; what is over goes into further micro-batches. auto =
            on a GPU what fits it: by two small trials, at ZeRO 3 by the model's shape; 4,096 on a CPU. A pair's sequences run
            together: a pair that is longer is refused on a GPU, and runs alone on a CPU. A ``top_k`` reference is stored by as
            many, or for auto by those that its own forwards leave room for.
        forward_overhead: tokens whose work costs as much as launching one more forward: pairs of unlike length run in
            several forwards where that wastes less. Some 20 on CPU, a few hundred on a GPU.
        workers: at most; min_workers: at least, fewer than ``workers`` = elastic; 0 = exactly ``workers``.
        zero_stage: DeepSpeed ZeRO stage 0..3; 0 in bfloat16 is run as 1.
        offload: to CPU memory: ``optimizer`` (ZeRO 1-3) or ``all`` = optimizer and parameters (ZeRO 3).
        deepspeed: further keys of DeepSpeed's configuration, such as {zero_optimization: {overlap_comm: false}}, as DeepSpeed
            knows them (others it passes over in silence); refused where a setting of ours decides.
        gradient_checkpointing: recompute activations in the backward pass: less memory, one more forward. selective: keep
            what attention and the narrower linears give, and recompute the rest: between both.
        checkpoint_steps: steps between checkpoints; keep_checkpoints: so many are kept.
        async_checkpoints: upload while training goes on.
        whole_checkpoints: also keep AdamW's moments whole, which another number of workers can resume from; without
            them a checkpoint is half as large, and only as many workers at the same ZeRO stage can go on.
        label_selector: as a judge's; of the workers, and of the tasks before and after.
        select: which step is kept: the last, or the best on dev prompts.
        max_failures: restarts after a worker's death; preemptions are not counted.
        trackers: tensorboard, mlflow, wandb; metrics.jsonl is always written.
    """

    tune: str = choice("lora", "full")
    kl_reference: str = choice("same_weights", "frozen_copy", "top_k", "hidden")
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
    max_displacement: float = later(10.0)
    batch: int = 4
    shares: dict[str, float] = field(default_factory=dict)
    length_window: int = 8
    micro_tokens: int | str = resource_auto()
    forward_overhead: int = resource(24)
    select: SelectConfig = field(default_factory=SelectConfig)
    workers: int = resource(1)
    min_workers: int = resource(0)
    zero_stage: int = resource(0)
    offload: str = resource_choice("none", "optimizer", "all")
    deepspeed: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    gradient_checkpointing: bool | str = resource_switch(SELECTIVE)
    checkpoint_steps: int = resource(50)
    keep_checkpoints: int = resource(2)
    async_checkpoints: bool = resource(True)
    whole_checkpoints: bool = resource(True)
    max_failures: int = resource(3)
    num_cpus: float = resource(1.0)
    use_gpu: bool | str = resource_auto()
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    trackers: tuple[str, ...] = resource(("tensorboard",))

    def warm_up(self, steps: int) -> int:
        """Returns the steps of warm-up in a run of so many.

        >>> RealignConfig(warmup_steps=100).warm_up(480), RealignConfig(warmup_steps=0).warm_up(480)
        (48, 0)
        """
        return min(self.warmup_steps, max(1, steps // 10)) if self.warmup_steps else 0

    @property
    def stores_reference(self) -> bool:
        """Whether what the KL takes of the reference is stored before training, so that it runs once, not every epoch."""
        return self.kl_reference in ("top_k", "hidden")

    @property
    def on_gpu(self) -> bool:
        """``use_gpu`` as a yes or no; ``auto`` that nobody has resolved (``config.gpus``) is a no."""
        return self.use_gpu is True

    @property
    def gpus(self) -> float:
        """Of one worker."""
        return 1.0 if self.on_gpu else 0.0

    @property
    def tokens(self) -> int:
        """``micro_tokens`` as a number; ``auto`` that nobody has found out on a device is what a CPU takes."""
        return CPU_TOKENS if isinstance(self.micro_tokens, str) else self.micro_tokens
