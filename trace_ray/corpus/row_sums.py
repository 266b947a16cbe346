"""What tells lost and doubled rows without keeping their numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def row_sum(rows: pa.ChunkedArray) -> int:
    """Returns the sum of hashes of row numbers, modulo 2^64: with the count, what tells lost and doubled rows.

    Source: the output function of SplitMix64 (Steele, Lea and Flood, 2014); no number's hash is 0, nor a simple function of
    others', as squares are: that of each file's first row would be 0, since rows are numbered from multiples of 2^40.
    """
    z = rows.to_numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))
