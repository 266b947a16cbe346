"""Where the preference pairs are, what their columns mean, and label noise on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field

from trace_ray.config.fields import choice, open_choice


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Label noise on purpose, to see how much of it a method bears; laid over the triaged training rows.

    Args:
        flip: share of rows put into another category; swap: share with chosen and rejected exchanged (sum at most 1).
        seed: fixes, with the pair's id, which rows.
    """

    flip: float = 0.0
    swap: float = 0.0
    seed: int = 0


FORMAT_NAMES = (
    *("preference", "hh_rlhf", "ultrafeedback", "openai", "pku_saferlhf", "arena", "arena_votes", "helpsteer"),
    *("webgpt", "shp", "summaries", "ultrafeedback_raw", "nectar", "stack_exchange", "rated_lists"),
)
COLUMN_NAMES = (
    *("prompt", "system", "chosen", "rejected", "score_chosen", "score_rejected", "response_0", "response_1"),
    *("is_response_0_safe", "is_response_1_safe", "better_response_id", "safer_response_id"),
    *("completions", "answers", "generations", "ratings"),
)
"""What ``corpus.columns`` may name."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where the preference pairs are and which of them are kept for evaluation.

    Args:
        paths: files, folders or globs of the training pairs, local or s3://; a dataset's id on the Hugging Face hub
            (org/name, org/name@revision, hf://org/name/data/train_prefs-*). Where names of a folder's or a dataset's
            files tell splits apart, the train split is read.
        test_paths: the same for held-out pairs (there, the test split); empty = ``holdout`` of ``paths``. A file, or a
            prompt, that is in both is held out.
        holdout: share of prompts, chosen by the prompt's hash, kept from training (0..1).
        format: the columns' meaning, see ``corpus/formats/README.md``; ``auto`` = decided row by row;
            else another package's: its name, or package.module:FORMAT.
        columns: {name that the formats know: the file's own name, or a dotted path into its rows}, such as
            {prompt: question}. What is named as the prompt is the only one.
        pairs: what becomes of several ranked answers: the best against the worst, each against the next, or every
            two; equal scores make no pair.
        min_margin: how far the better answer's score, or rank, must be ahead; rows that carry neither are kept.
        limit: read only the first rows of ``paths``; 0 = all.
        max_chars: characters that a prompt, and each response, may have; 0 = no limit.
        too_long: what becomes of a longer one.
        rows_per_part: rows a block, and so a part file of triaged/, holds about and on average at most.
        noise: labels damaged on purpose.
    """

    paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    holdout: float = 0.1
    format: str = open_choice("formats", "auto", *FORMAT_NAMES)
    columns: dict[str, str] = field(default_factory=dict)
    pairs: str = choice("best_worst", "adjacent", "all")
    min_margin: float = 0.0
    limit: int = 0
    max_chars: int = 0
    too_long: str = choice("reject", "truncate")
    rows_per_part: int = 2048
    noise: NoiseConfig = field(default_factory=NoiseConfig)
