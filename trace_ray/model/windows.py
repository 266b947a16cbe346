"""Settings that say over how many places a token sees, in the words of the families that have some."""

from __future__ import annotations

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "attention_window_size",
    "window_size",
    "keep_window_size",
    "local_attention",
)
