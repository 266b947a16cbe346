"""TRL's DPOTrainer on the rows and the model of ``part_train``, by its defaults: reference log-probs made in each step."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.gpu.figures import forget_peak, peak_gib, peak_share, run_parameters, tell
from tests.gpu.part_train import training_settings
from tests.gpu.shapes import llama, on_card, paths_taken, sync, tokenized, use_random_weights


def measure(options: argparse.Namespace) -> bool:
    """Tells the figures of the steps after the first; returns whether all went well."""
    from trace_ray.runtime import environment

    environment.prepare()
    use_random_weights(lambda: llama(options.shape))
    config = training_settings(options)
    with tempfile.TemporaryDirectory() as folder:
        trainer, marks = _trainer(Path(folder), config, options)
        trainer.train()
        sync()
        marks.end()
    skip = trainer.args.gradient_accumulation_steps  # the first step
    seconds = marks.times[-1] - marks.times[skip]
    tokens, padded = (sum(counts) for counts in zip(*marks.seen[skip:], strict=True))
    losses = [float(loss) for loss in marks.losses]
    tell(
        pairs_a_forward=trainer.args.per_device_train_batch_size,
        steps=len(marks.seen) // skip - 1,
        seconds=seconds,
        tokens=tokens,
        tokens_per_s=tokens / seconds,
        padding=1 - tokens / padded,
        # A forward of the reference besides: 3 passes.
        peak_share=peak_share(run_parameters(trainer.model), tokens, 3, seconds),
        first_loss=sum(losses[:skip]) / skip,
        last_loss=sum(losses[-skip:]) / skip,
        gradient_checkpointing=config.realign.gradient_checkpointing,
        **peak_gib(),
        **paths_taken(trainer.model, config),
    )
    return True


class Marks:
    """When each micro-step began, what it was given and its loss."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.seen: list[tuple[int, int]] = []
        self.losses: list[Any] = []

    def begin(self, mask: Any, ids: Any) -> None:
        import time

        if len(self.times) < 4:
            forget_peak()
        sync()
        self.times.append(time.perf_counter())
        self.seen.append((int(mask.sum()), ids.numel()))

    def end(self) -> None:
        import time

        self.times.append(time.perf_counter())


def _trainer(folder: Path, config: Any, options: argparse.Namespace) -> tuple[Any, Marks]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from trace_ray.model.loading import load_model, load_tokenizer

    marks = Marks()

    class Tokenized(DPOTrainer):  # type: ignore[misc]
        """On tokens made elsewhere; marks what it is given."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            marks.begin(inputs["attention_mask"], inputs["input_ids"])
            loss = super()._compute_loss(model, inputs, return_outputs)
            marks.losses.append(loss.detach())
            return loss

    pairs = tokenized(config, options.pairs)
    rows = [
        {"prompt_ids": p.prompt_ids, **{f"{name}_ids": ids for name, ids in p.response_ids.items()}}
        | {"length": len(p.prompt_ids) + max(map(len, p.response_ids.values()))}
        for p in pairs
    ]
    os.environ.setdefault("ACCELERATE_USE_DEEPSPEED", "false")
    arguments = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.trl_pairs,
        gradient_accumulation_steps=max(1, options.batch // options.trl_pairs),
        num_train_epochs=1,
        beta=config.objective.beta,
        learning_rate=config.realign.learning_rate,
        max_length=options.length,
        gradient_checkpointing=config.realign.gradient_checkpointing,
        bf16=on_card(),
        use_cpu=not on_card(),
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,  # the sampler would lose the lengths with them
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )
    lora = config.lora
    adapter = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    trainer = Tokenized(
        model=load_model(config.model),
        args=arguments,
        processing_class=load_tokenizer(config.model.path),
        train_dataset=Dataset.from_list(rows),
        peft_config=adapter,
    )
    return trainer, marks
