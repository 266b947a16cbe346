"""The memory table of conf/README.md follows from the models' shapes and the formulas that it states."""

from __future__ import annotations

import pytest

from trace_ray.config.sources import conf_folder

TOKENS, RANK = 8192, 32
# Parameters, layers, width, MLP width, vocabulary; outputs of q_proj and v_proj.
SHAPES = {
    "Qwen2.5-7B": (7.62e9, 28, 3584, 18944, 152064, 28 * 128, 4 * 128),
    "Gemma-2-9B": (9.24e9, 42, 3584, 14336, 256000, 16 * 256, 8 * 256),
    "Llama-3.1-8B": (8.03e9, 32, 4096, 14336, 128256, 32 * 128, 8 * 128),
}


def table() -> dict[str, list[str]]:
    """Row's first cell -> its cells by model, of both tables."""
    lines = (conf_folder() / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[2:] for row in rows if len(row) == 5 and row[2]}


@pytest.mark.parametrize("model", SHAPES)
def test_each_figure_is_its_formula(model: str) -> None:
    rows = table()
    place = list(SHAPES).index(model)
    parameters, layers, width, wide, vocabulary, queries, values = SHAPES[model]
    adapter = RANK * layers * (2 * width + queries + values)
    kept, layer = 2 * TOKENS * width * layers, 2 * TOKENS * (11 * width + 4 * wide)
    chunk = 4 * 2**28
    sharded, reference = 16 * parameters / 8, 2 * parameters / 8
    expected = {
        "weights": 2 * parameters,
        "its weights, gradients, float32 master, two moments": 16 * adapter,
        "kept activations: the input of each layer": kept,
        "one layer while it is recomputed": layer,
        "logits if made at once, with their softmax and gradient": 3 * 4 * TOKENS * vocabulary,
        "logits as they are made: 2^28 bytes at a time, about 4 copies": chunk,
        "LoRA, ZeRO 2, 8 or 16 GPUs": 2 * parameters + 16 * adapter / 8 + kept + layer + chunk,
        "LoRA, ZeRO 3, 8 GPUs": 2 * parameters / 8 + 16 * adapter / 8 + kept + layer + chunk,
        "full, ZeRO 3, 8 GPUs": sharded,
        "+ frozen reference": reference,
    }
    for name, value in expected.items():
        written = rows[name][place]
        digits = len(written.partition(".")[2])
        assert abs(float(written) - value / 1e9) <= 0.6 * 10**-digits, (name, written, value / 1e9)
    assert rows["adapter"][place] == f"{adapter / 1e6:.1f}e6"
    head = 2 * 2 * vocabulary * width  # gathered, and its gradient
    whole = (sharded + reference + kept + layer + chunk + head) / 1e9
    assert (
        abs(float(rows["+ activations, logits, the gathered output head and its gradient"][place].split()[0]) - whole)
        <= 1
    )
    half = (sharded / 2 + reference / 2 + kept + layer + chunk + head) / 1e9
    assert abs(float(rows["full, ZeRO 3, 16 GPUs"][place].split()[0]) - half) <= 1
