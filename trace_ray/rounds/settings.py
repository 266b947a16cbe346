"""What a further round is run with: the run's settings, but for model, corpus and what was fitted on the corpus' pairs."""

from __future__ import annotations

from dataclasses import replace

from trace_ray.config import Config, CorpusConfig, ModelConfig, TriageConfig
from trace_ray.config.sampler import with_sampler
from trace_ray.pairs import Category, Split
from trace_ray.runs.artifacts import AUDIT_FILE, Run
from trace_ray.runs.lineage import MERGED
from trace_ray.runs.rounds import round_run

TRAIN, TEST = "train", "test"
"""In a round's answers/: the pairs of its answers, and the first round's held-out pairs."""


def round_config(run: Run, config: Config, number: int) -> Config:
    """Returns the settings of round ``number`` of a run, whose round before is done.

    Args:
        config: the run's, with absolute model paths and dates.
    """
    return with_sampler(
        replace(
            config,
            rounds=replace(config.rounds, number=1),
            model=_model(round_run(run, number - 1), config.model),
            corpus=_corpus(run, round_run(run, number), config.corpus),
            triage=_triage(run, config.triage),
        )
    )


def _model(before: Run, model: ModelConfig) -> ModelConfig:
    """The merged model brings its tokenizer with the chat template that it was trained in."""
    return replace(model.exported_to((before.model.place / MERGED).uri), chat_template="")


def _corpus(first: Run, further: Run, corpus: CorpusConfig) -> CorpusConfig:
    counts, made = first.triaged.manifest()["counts"], further.answers.place
    held_out = any(counts.get(f"{Split.TEST} {category}") for category in Category)
    return CorpusConfig(
        paths=((made / TRAIN).uri,),
        test_paths=((made / TEST).uri,) if held_out else (),
        holdout=0.0,
        format="preference",
        max_chars=corpus.max_chars,
        too_long=corpus.too_long,
        rows_per_part=corpus.rows_per_part,
        noise=corpus.noise,
    )


def _triage(first: Run, triage: TriageConfig) -> TriageConfig:
    """The first round's audit decides: its labels are of the corpus' pairs. A model that complies throughout is no fault of
    the judge's, so ``max_one_sided`` has said all it can.
    """
    audited = first.triaged.manifest().get("audit") is not None  # labels may be of other pairs
    corrector = triage.corrector_judge
    own = triage.correct and triage.corrector == "sample" and corrector is not None
    return replace(
        triage,
        audit_labels="",
        audit_file=(first.triaged.place / AUDIT_FILE).uri if audited else triage.audit_file,
        audit_by="all",
        calibration="none",
        false_invert_rate=0.0,
        max_one_sided=1.0,
        gold_responses="",
        corrector_judge=replace(corrector, model="") if own and corrector is not None else corrector,
    )
