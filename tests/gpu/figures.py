"""What every part tells: rates, the share of the card's peak, memory; and a profile of what the card did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations a second by the card's name, of its maker's data sheet."""


def tell(**figures: Any) -> None:
    """Prints figures of this part at once, for whoever started it."""
    print("RESULT", json.dumps({name: _rounded(value) for name, value in figures.items()}), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def told(output: str) -> dict[str, Any]:
    """Returns the figures that a part's output holds."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("RESULT {"):
            found |= json.loads(line.removeprefix("RESULT "))
    return found


def card() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def run_parameters(model: Any) -> int:
    """Returns how many weights each token is multiplied by: all but the adapter's and the input embedding's."""
    from trace_ray.model.decoder import causal_lm

    causal = causal_lm(model)
    head, embedding = causal.get_output_embeddings().weight, causal.get_input_embeddings().weight
    body = {id(p): p.numel() for n, p in causal.named_parameters() if "lora_" not in n and p is not embedding}
    return sum((body | {id(head): head.numel()}).values())


def peak_share(parameters: int, tokens: float, passes: int, seconds: float) -> float | None:
    """Returns the share of the card's bf16 peak that 2 x parameters x tokens operations a pass make of it.

    Args:
        passes: 1 a forward, 2 a forward with a backward to the activations alone, as frozen weights need it; what is
            recomputed, attention and the adapter are not counted.
    """
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in card()), None)
    return None if peak is None else 2.0 * parameters * tokens * passes / seconds / peak


def forget_peak() -> None:
    """Begins the peak of memory anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> dict[str, float]:
    """Returns the most that tensors took, and that the allocator held, of the card; of the process without a card."""
    import torch

    if torch.cuda.is_available():
        held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"peak_gib": held[0] / 2**30, "reserved_gib": held[1] / 2**30}
    import resource

    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def profiled(work: Callable[[], Any], rows: int = 25) -> None:
    """Runs work once more under the profiler and prints the kernels that took longest, and the share of time that any ran."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        wall = time.perf_counter() - started
    device = "CUDA" if gpu else "CPU"
    spent = [
        (e.self_device_time_total if gpu else e.self_cpu_time_total, e.count, e.key)
        for e in profiler.key_averages()
        if e.device_type.name == device and not getattr(e, "is_user_annotation", False)
    ]
    total = sum(time_us for time_us, _, _ in spent)
    print(f"PROFILE {wall:.3f} s, of which kernels ran {total / 1e6:.3f} s; {sum(n for _, n, _ in spent)} kernels")
    for time_us, count, name in sorted(spent, reverse=True)[:rows]:
        print(f"PROFILE {time_us / 1e3:10.1f} ms {time_us / max(total, 1e-9):6.1%} {count:7d}  {name[:110]}")
    tell(profile={"busy_share": total / 1e6 / wall, "seconds": wall, "kernels": sum(n for _, n, _ in spent)})
