"""Two real engines, one after the other in one process on a CPU: the first has let go of its memory when it is closed."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

import trace_ray
from trace_ray.config import ModelConfig
from trace_ray.model.engine import Engine, EngineSettings
from trace_ray.model.loading import load_model

MODELS = Path(trace_ray.__file__).parent / "synth" / "models"
CACHE = 2**30
"""Bytes of an engine's key-value cache, the fewest that there are on a CPU; the models are small beside it."""
PROMPTS, TOKENS = [[5, 9, 17, 3], [8, 2, 30, 11, 4]], list(range(8))


def held() -> int:
    """Bytes of all tensors of this process, parameters left out, that are alive or that nobody has collected."""
    gc.unfreeze()  # a started engine hides from the collector what is there, as does the last line here
    storages = [made.untyped_storage() for made in gc.get_objects() if type(made) is torch.Tensor]
    gc.freeze()
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def log_probs(name: str) -> list[list[float]]:
    """Of TOKENS as the next token, by transformers' own logits."""
    model = load_model(ModelConfig(path=str(MODELS / name)))
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[TOKENS].tolist() for ids in PROMPTS]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engine_has_let_go_of_its_cache_before_the_next_one_starts() -> None:
    """The first model again at the end: nothing of the one between them is left in the process."""
    expected, before = {name: log_probs(name) for name in ("policy", "judge")}, held()
    for name in ("policy", "judge", "policy"):
        engine = Engine(EngineSettings(model=str(MODELS / name), max_model_len=128, kv_cache_gib=CACHE / 2**30))
        assert held() - before > 0.5 * CACHE, "the cache is no tensor of this process: nothing is tried here"
        found = engine.first_token_log_probs(PROMPTS, TOKENS)
        for seen, known in zip(found, expected[name], strict=True):
            assert [seen[token] for token in TOKENS] == pytest.approx(known, abs=1e-3)
        engine.close()
        assert held() - before < 0.1 * CACHE, f"{name}: its memory is still held"
    assert expected["policy"] != expected["judge"]
