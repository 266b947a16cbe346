"""Realign against TRL's DPOTrainer and against a bare forward and backward.

    python tests/bench/realign.py --model models/smollm2-135m-instruct --pairs ../shared/data/pku_saferlhf_2400.jsonl.gz

The same LoRA adapter, pairs, tokens and optimizer, plain dpo, float32, one process each, on whatever cores OMP_NUM_THREADS
leaves. Each part runs in a process of its own, so that peaks of memory do not mix; the clock runs over the epoch alone, not
over imports and loading; of repeated parts the median second and the largest peak count. The bench fails where two parts saw
different tokens or ran on unlike numbers of threads; that the losses agree is tests/realign/test_trl.py's matter.

TRL: its defaults (reference log-probs made in each step with the adapter off, its chunked LM head) but gradient checkpointing
and bf16 off and batches grouped by length; we sort by length in windows as large as its own. Ours: reference log-probs come
from scored/, as in a run. Two stricter figures go with it: `vs_trl_with_reference_pass` adds that pass to our seconds, and
`vs_trl_stored` is against TRL with precompute_ref_log_probs, its own pass for them left out of its seconds too.

The bare step is forward and backward alone of the same sequences in the same groups, batches made before the clock starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BETA, RATE, BATCH, MAX_LENGTH = 0.1, 1e-4, 4, 256
PARTS = ("ours", "bare", "trl", "trl_stored")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    """Runs the parts and prints a table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--pairs", default="../shared/data/pku_saferlhf_2400.jsonl.gz")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--part", default="")
    parser.add_argument("--folder", default="")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(globals()[f"part_{arguments.part}"](Path(arguments.folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = run_part("prepare", folder)
        runs = [{name: run_part(name, folder) for name in PARTS} for _ in range(arguments.repeat)]
    parts = {name: merged([figures[name] for figures in runs]) for name in PARTS}
    ours, trl = parts["ours"], parts["trl"]
    check_alike(parts)
    result = {
        "vs_trl": trl["seconds"] / ours["seconds"],
        "of_bare_step": parts["bare"]["seconds"] / ours["seconds"],
        "peak_memory_vs_trl": ours["peak_gib"] / trl["peak_gib"],
        "padding": ours["padding"],
        "padding_trl": trl["padding"],
        "vs_trl_with_reference_pass": trl["seconds"] / (ours["seconds"] + prepared["reference_seconds"]),
        "vs_trl_stored": parts["trl_stored"]["seconds"] / ours["seconds"],
        "peak_memory_vs_trl_stored": ours["peak_gib"] / parts["trl_stored"]["peak_gib"],
        "tokens_per_s": ours["tokens"] / ours["seconds"],
        "mean_loss": ours["mean_loss"],
        "mean_loss_trl": trl["mean_loss"],
        "pairs": arguments.count,
        "threads": ours["threads"],
    }
    print(json.dumps({k: round(v, 4) for k, v in result.items()}))


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one part's figures over its repeats: the median second, the largest peak, the rest of the last."""
    seconds, peak = ([run[name] for run in runs] for name in ("seconds", "peak_gib"))
    return runs[-1] | {"seconds": statistics.median(seconds), "peak_gib": max(peak)}


def check_alike(parts: dict[str, dict[str, Any]]) -> None:
    """Raises SystemExit where the parts did not do the same work."""
    different = {name: tuple(part[n] for n in ("tokens", "threads")) for name, part in parts.items()}
    if len(set(different.values())) > 1:
        raise SystemExit(f"the parts saw different tokens or threads: {different}")


def run_part(name: str, folder: str) -> dict[str, Any]:
    """Runs one part in a process of its own and returns what it measured."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", name, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    row = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{name:10}", *(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def config_of(arguments: argparse.Namespace) -> Any:
    """Returns the configuration of all parts."""
    from trace_ray.config import Config, LoraSettings, ModelConfig, ObjectiveConfig, RealignConfig, TermConfig

    term = TermConfig(loss="dpo", prefer="chosen", suppress=("rejected",))
    window = max(1, min(arguments.count // (4 * BATCH), 50))  # steps that TRL sorts by length at once
    return Config(
        model=ModelConfig(path=str(Path(arguments.model).absolute()), max_length=MAX_LENGTH),
        lora=LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=TARGETS),
        objective=ObjectiveConfig(RETAIN=term, retain="pair", weights="uniform", beta=BETA),
        realign=RealignConfig(
            batch=BATCH, learning_rate=RATE, warmup_steps=0, schedule="linear", length_window=window, trackers=()
        ),
    )


def run_of(folder: Path) -> Any:
    """Returns the run of all parts."""
    from trace_ray.config import StorageConfig
    from trace_ray.runs.artifacts import Run
    from trace_ray.storage.location import locate

    return Run(locate(str(folder / "run"), StorageConfig()))


def peak_gib() -> float:
    """Returns this process' peak resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def part_prepare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokenises the pairs, makes reference log-probs and the adapter; what stage 2 does in a run."""
    import pyarrow as pa
    import torch

    from trace_ray.chat.text import accepted
    from trace_ray.config import StorageConfig
    from trace_ray.corpus.files import raw_rows
    from trace_ray.corpus.read import row_values
    from trace_ray.model.batches import token_batches
    from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter
    from trace_ray.model.log_probs import response_log_probs
    from trace_ray.model.packing import pack_each
    from trace_ray.pairs import SCORED_SCHEMA
    from trace_ray.storage.location import locate

    config, run = config_of(arguments), run_of(folder)
    raw = itertools.islice(raw_rows(locate(arguments.pairs, StorageConfig())), arguments.count)
    lines = [row_values(row) for row in raw]
    prompts = [[{"role": "user", "content": line["prompt"]}] for line in lines]
    chat = load_chat_tokenizer(config.model)
    pairs = accepted(chat.pairs(prompts, [{n: line[n] for n in ("chosen", "rejected")} for line in lines]))
    model = load_model(config.model)
    rows: list[dict[str, Any]] = [
        {"row": i, "pair_id": f"p{i}", "category": "RETAIN", "prompt_ids": pair.prompt_ids, "weight": 1.0}
        | {f"{name}_ids": ids for name, ids in pair.response_ids.items()}
        for i, pair in enumerate(pairs)
    ]
    flat = [(row, name) for row in rows for name in ("chosen", "rejected")]
    started = time.monotonic()
    for members in token_batches([len(row["prompt_ids"]) + len(row[f"{n}_ids"]) for row, n in flat], 1024):
        chunk = [flat[i] for i in members]
        batch = pack_each((row["prompt_ids"], row[f"{name}_ids"]) for row, name in chunk)
        with torch.inference_mode():
            for (row, name), value in zip(chunk, response_log_probs(model, batch).tolist(), strict=True):
                row[f"{name}_ref_logp"] = value
    seconds = time.monotonic() - started
    run.scored.begin({})
    (run.scored.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA))
    run.scored.publish(counts={}, seconds=0.0)
    new_adapter(model, config.lora, 0).save_pretrained(str(folder / "run" / "impact" / "adapter_init"))
    return {"reference_seconds": seconds, "pairs": len(rows)}


def part_ours(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """An epoch of the training loop."""
    trainer = make_trainer(folder, arguments)
    started = time.monotonic()
    trainer.run(trainer.tell)
    seconds = time.monotonic() - started
    rows = trainer.metrics
    padded = sum(row["tokens"] / (1 - row["padding"]) for row in rows)
    tokens = sum(row["tokens"] for row in rows)
    loss = statistics.fmean(row["RETAIN/loss"] for row in rows)
    facts = {"padding": 1 - tokens / padded, "mean_loss": loss, "steps": len(rows)}
    return measured(seconds, tokens) | facts


def measured(seconds: float, tokens: int) -> dict[str, Any]:
    """Returns what every part tells."""
    import torch

    return {"seconds": seconds, "tokens": tokens, "peak_gib": peak_gib(), "threads": torch.get_num_threads()}


def make_trainer(folder: Path, arguments: argparse.Namespace) -> Any:
    """Returns the training loop in this process alone."""
    import torch
    from torch._C._distributed_c10d import HashStore

    from trace_ray.realign.loop import Trainer
    from trace_ray.realign.setup import prepare_process

    config = config_of(arguments)
    threads = torch.get_num_threads()
    prepare_process(config.realign)
    torch.set_num_threads(threads)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as Ray Train sets them
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    return Trainer(run_of(folder), config, 0, 1)


def part_bare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same sequences, one forward and backward a group of the same forwards: no trainer, loss table or optimizer."""
    from trace_ray.model.log_probs import response_log_probs

    trainer = make_trainer(folder, arguments)
    model = trainer.model
    batches = []
    for step in range(trainer.plan.steps):
        samples = trainer.plan.step(step)
        batches += [trainer.batch(samples, micro) for micro in trainer.layout(samples)]
    started = time.monotonic()
    for batch in batches:
        sum(response_log_probs(model, group.batch).sum() for group in batch.groups).backward()  # type: ignore[union-attr]
        model.zero_grad()
    seconds = time.monotonic() - started
    return measured(seconds, sum(b.tokens()[0] for b in batches))


def part_trl_stored(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """As ``part_trl``, its reference log-probs made before the clock starts."""
    return part_trl(folder, arguments, stored=True)


def part_trl(folder: Path, arguments: argparse.Namespace, *, stored: bool = False) -> dict[str, Any]:
    """An epoch of TRL's DPOTrainer on the same tokens."""
    from trace_ray.runtime import environment

    environment.prepare()
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from trl import DPOConfig, DPOTrainer

    from trace_ray.model.loading import load_model, load_tokenizer

    config = config_of(arguments)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [{name: row[name] for name in names} for row in run_of(folder).scored.read(list(names)).to_pylist()]
    for row in rows:
        row["length"] = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
    seen: list[tuple[int, int]] = []
    losses: list[float] = []

    class Tokenized(DPOTrainer):  # type: ignore[misc]
        """On tokens made elsewhere; counts what it is given."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            seen.append((int(inputs["attention_mask"].sum()), inputs["input_ids"].numel()))
            loss = super()._compute_loss(model, inputs, return_outputs)
            losses.append(float(loss.detach()))
            return loss

    settings = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        beta=BETA,
        precompute_ref_log_probs=stored,
        learning_rate=RATE,
        max_length=MAX_LENGTH,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,  # the sampler would lose the lengths with them
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )
    tokenizer = load_tokenizer(config.model.path)
    lora = LoraConfig.from_pretrained(str(folder / "run" / "impact" / "adapter_init"))
    lora.inference_mode = False
    trainer = Tokenized(
        model=load_model(config.model),
        args=settings,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        peft_config=lora,  # given a finished PEFT model, TRL would keep a second adapter as the reference
    )
    start = load_file(folder / "run" / "impact" / "adapter_init" / "adapter_model.safetensors")
    set_peft_model_state_dict(trainer.model, start)
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    tokens, padded = sum(a for a, _ in seen), sum(b for _, b in seen)
    facts = {"padding": 1 - tokens / padded, "mean_loss": statistics.fmean(losses), "steps": len(seen)}
    return measured(seconds, tokens) | facts


if __name__ == "__main__":
    main()
