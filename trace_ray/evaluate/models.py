"""What is measured on the models themselves, not on answers: drift and capability. One function a Ray task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trace_ray.config import Config
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.pairs import MODELS
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location
from trace_ray.storage.staging import download_folder

if TYPE_CHECKING:
    import torch

    from trace_ray.chat.text import TokenizedPair


def measure_drift(run: Run, config: Config, rows: Sequence[dict[str, Any]]) -> Iterator[DriftSum]:
    """Yields how far the run's model drifted from its base on the RETAIN pairs ``rows``, a batch of them at a time.

    One copy of the weights where the run kept an adapter (the base is the adapter switched off), else two models.
    """
    from trace_ray.evaluate.drift import drift_sums
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_adapter, load_model

    base, pairs, device = _base_and_pairs(config, rows)
    adapter, merged = run.model.place / "adapter", run.model.place / "merged"
    if adapter.exists():
        with download_folder(adapter) as folder:
            model, reference = load_adapter(base, folder, trainable=False).eval().to(device), None
    else:
        with download_folder(merged) as folder:
            model = load_model(config.model.exported_to(folder)).to(device)
        reference = base.to(device)
    for each in (model, base):
        choose_packing(each, config.model.packing, device)
        fuse(each, config.model.kernels, device)
    yield from drift_sums(model, reference, pairs, config.evaluate.batch_tokens)


def measure_adapters(
    config: Config, rows: Sequence[dict[str, Any]], adapters: Mapping[int, Location]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields (number, figures of ``DriftSum``) of adapters of one base, from the RETAIN pairs ``rows``.

    Args:
        adapters: number -> folder; the base is loaded once for all of them.
    """
    from trace_ray.evaluate.drift import drift
    from trace_ray.model.loading import load_adapter

    model, pairs, device = _base_and_pairs(config, rows)
    for number, place in adapters.items():
        with download_folder(place) as folder:
            adapted = load_adapter(model, folder, trainable=False).eval().to(device)
        yield number, drift(adapted, None, pairs, config.evaluate.batch_tokens)
        model = adapted.unload()


def _base_and_pairs(config: Config, rows: Sequence[dict[str, Any]]) -> tuple[Any, list[TokenizedPair], torch.device]:
    """Returns the base on the CPU, the pairs as tokens, and the device to measure on."""
    import torch

    from trace_ray.chat.text import accepted
    from trace_ray.model.loading import load_chat_tokenizer, load_model
    from trace_ray.model.probe import check_log_probs

    torch.set_num_threads(max(1, int(config.evaluate.num_cpus)))
    device = torch.device("cuda" if config.evaluate.gpus and torch.cuda.is_available() else "cpu")
    tokenizer = load_chat_tokenizer(config.model)
    pairs = accepted(tokenizer.pairs([row["prompt"] for row in rows], [{"chosen": row["chosen"]} for row in rows]))
    base = load_model(config.model)
    check_log_probs(base, config.model.path)
    return base, pairs, device


def measure_capability(run: Run, config: Config, model: str) -> dict[str, Any]:
    """Returns the harness' figures for ``base`` or ``realigned``."""
    import torch

    from trace_ray.evaluate.capability import run_harness

    torch.set_num_threads(max(1, int(config.evaluate.num_cpus)))
    gpu = bool(config.evaluate.gpus)
    if model == MODELS[0]:
        return run_harness(config.model, config.evaluate.capability, gpu=gpu)
    with download_folder(run.model.place / "merged") as folder:
        return run_harness(config.model.exported_to(folder), config.evaluate.capability, gpu=gpu)
