"""Other seeds than those the tests name: what passes by the luck of one seed fails with another (`make test-varied`)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parents[1])


def vary(offset: int) -> None:
    """Adds ``offset`` to every whole number that a file of the tests seeds a generator with, in this process.

    The seeds of what is tested stay: they are settings, and so do those of tests whose expected figures were stored.
    """
    import numpy as np
    import torch

    random.Random = _varied_class(offset)  # type: ignore[misc]
    np.random.default_rng = _varied(np.random.default_rng, offset)
    torch.manual_seed = _varied(torch.manual_seed, offset)


def _by_a_test(depth: int) -> bool:
    return sys._getframe(depth + 1).f_code.co_filename.startswith(TESTS)


def _varied(seeded: Callable[..., Any], offset: int) -> Callable[..., Any]:
    def call(seed: Any = None, *rest: Any) -> Any:
        return seeded(seed + offset if type(seed) is int and _by_a_test(1) else seed, *rest)

    return call


def _varied_class(offset: int) -> type[random.Random]:
    class Varied(random.Random):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(seed + offset if type(seed) is int and _by_a_test(1) else seed)

    return Varied
