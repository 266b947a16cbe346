"""Training at the shape: plain dpo with stored reference log-probs, on DeepSpeed in this one process."""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.gpu.figures import forget_peak, peak_gib, peak_share, profiled, run_parameters, tell
from tests.gpu.shapes import clocked, llama, on_card, paths_taken, settings, tokenized, use_random_weights

PROFILED_STEPS = 2


def measure(options: argparse.Namespace) -> bool:
    """Tells the figures of the steps after the first; returns whether all went well."""
    with tempfile.TemporaryDirectory() as folder:
        config = training_settings(options)
        run, seconds = clocked(lambda: stored_run(Path(folder), config, options))
        tell(reference_and_adapter_s=seconds)
        trainer, seconds = clocked(lambda: trainer_of(run, config))
        tell(trainer_s=seconds, pairs=options.pairs, batch=config.realign.batch, **_about(config))
        _steps(trainer, config, options)
    return True


def training_settings(options: argparse.Namespace) -> Any:
    """Returns the configuration of training, ours and TRL's alike."""
    checkpointing = "true" if options.checkpointing == "on" else "false"
    return settings(
        options,
        f"realign.batch={options.batch}",
        f"realign.micro_tokens={options.micro_tokens}",
        f"realign.gradient_checkpointing={checkpointing}",
        f"realign.use_gpu={'true' if on_card() else 'false'}",
        "realign.learning_rate=1.0e-5",
        "realign.warmup_steps=0",
        "realign.schedule=linear",
        "realign.zero_stage=1",
        "realign.forward_overhead=256",
        "realign.trackers=[]",
    )


def _about(config: Any) -> dict[str, Any]:
    realign = config.realign
    return {"micro_tokens": realign.micro_tokens, "gradient_checkpointing": realign.gradient_checkpointing}


def stored_run(folder: Path, config: Any, options: argparse.Namespace) -> Any:
    """Returns a run as stage 2 leaves it: scored rows with reference log-probs, and the adapter that training starts from."""
    import pyarrow as pa
    import torch

    from trace_ray.config import StorageConfig
    from trace_ray.impact.direction import adapter_off_log_probs
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_model, new_adapter
    from trace_ray.pairs import SCORED_SCHEMA
    from trace_ray.runs.artifacts import Run
    from trace_ray.storage.location import locate

    use_random_weights(lambda: llama(options.shape))
    run = Run(locate(str(folder / "run"), StorageConfig()))
    base = load_model(config.model)
    model = new_adapter(base, config.lora, 0).eval()
    choose_packing(model, config.model.packing, base.device)
    fuse(model, config.model.kernels, base.device)
    pairs = tokenized(config, options.pairs)
    sides = [
        {
            "prompt_ids": p.prompt_ids,
            "preferred_ids": p.response_ids["chosen"],
            "dispreferred_ids": p.response_ids["rejected"],
        }
        for p in pairs
    ]
    known = adapter_off_log_probs(model, sides, config.impact.tokens)
    rows = [
        {"row": i, "pair_id": f"p{i}", "category": "RETAIN", "prompt_ids": p.prompt_ids, "weight": 1.0}
        | {f"{name}_ids": ids for name, ids in p.response_ids.items()}
        | {"chosen_ref_logp": chosen, "rejected_ref_logp": rejected}
        for i, (p, (chosen, rejected)) in enumerate(zip(pairs, known, strict=True))
    ]
    run.scored.begin({})
    (run.scored.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA))
    run.scored.publish(counts={}, seconds=0.0)
    model.save_pretrained(str(folder / "run" / "impact" / "adapter_init"))
    del model
    gc.collect()
    if on_card():
        torch.cuda.empty_cache()
    return run


def trainer_of(run: Any, config: Any) -> Any:
    """Returns the training loop, alone in its process group."""
    import torch
    from torch._C._distributed_c10d import HashStore

    from trace_ray.realign.loop import Trainer
    from trace_ray.realign.setup import prepare_process

    threads = torch.get_num_threads()
    prepare_process(config.realign)
    torch.set_num_threads(threads)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as Ray Train sets them
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
    if on_card():
        torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl" if on_card() else "gloo", store=HashStore(), rank=0, world_size=1)
    return Trainer(run, config, 0, 1)


def _steps(trainer: Any, config: Any, options: argparse.Namespace) -> None:
    seen: list[Any] = []
    made = trainer.batch

    def batch(*arguments: Any) -> Any:
        seen.append(made(*arguments))
        return seen[-1]

    trainer.batch = batch
    _, first = clocked(trainer.train_step)
    taken = paths_taken(trainer.model, config, seen[0].groups[0].batch)
    steps = max(2, trainer.plan.steps - (PROFILED_STEPS if options.profile else 0))
    seen.clear()
    forget_peak()

    def rest() -> None:
        while not trainer.over and trainer.step < steps:
            trainer.train_step()

    _, seconds = clocked(rest)
    done = trainer.step - 1
    tokens, run, padded = (sum(counts) for counts in zip(*(b.tokens() for b in seen), strict=True))
    tell(
        steps=done,
        first_step_s=first,
        seconds=seconds,
        tokens=tokens,
        tokens_per_s=tokens / seconds,
        tokens_run=run,
        tokens_run_per_s=run / seconds,
        pairs_per_s=config.realign.batch * done / seconds,
        padding=1 - run / padded,
        forwards_a_step=sum(len(b.groups) for b in seen) / done,
        peak_share=peak_share(run_parameters(trainer.model), run, 2, seconds),
        first_loss=trainer.metrics[0]["RETAIN/loss"],
        last_loss=trainer.metrics[-1]["RETAIN/loss"],
        grad_norm=trainer.metrics[-1]["grad_norm"],
        **peak_gib(),
        **taken,
    )
    if options.profile:
        profiled(lambda: [trainer.train_step() for _ in range(PROFILED_STEPS) if not trainer.over])
