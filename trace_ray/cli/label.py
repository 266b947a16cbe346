"""`trace-ray label`: a page on which people label pairs, and several raters' labels made one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from trace_ray.cli.options import parted
from trace_ray.config.load import load_config, load_storage
from trace_ray.errors import UserError
from trace_ray.storage.location import locate

if TYPE_CHECKING:
    from trace_ray.config import Config
    from trace_ray.runs.artifacts import Run
    from trace_ray.triage.labelling.sample import Candidate

label_app = typer.Typer(
    no_args_is_help=True, help="A page on which people label pairs, and several raters' labels made one."
)


@label_app.command(epilog="Example: trace-ray label sample --run runs/first --out labels.html")
def sample(
    out: Annotated[str, typer.Option("--out", help="the page to write, such as labels.html")],
    run: Annotated[str, typer.Option("--run", help="a run whose triage has finished; or else --config")] = "",
    config: Annotated[
        list[str] | None, typer.Option("-c", "--config", help="yaml with the policy, before anything is judged")
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option("--corpus", help="files, instead of corpus.paths")] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="pairs on the page")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="fixes which pairs are drawn at random")] = 0,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value")] = None,
) -> None:
    """Writes one offline page: pairs of every category, source and clause, those that would change most first.

    It downloads labels.jsonl for triage.audit_labels (the judge against them) or triage.review_labels (they overrule it).
    """
    from trace_ray.triage.labelling.page import label_page
    from trace_ray.triage.labelling.sample import of_run

    if bool(run) == bool(config):
        raise UserError(
            "label sample", "--run and --config", "name a run, or, before judging, a configuration: one of them"
        )
    if run:
        opened, settings, threshold = _opened(run, overrides or [])
        pairs = of_run(opened, threshold, number, seed)
    else:
        settings = load_config(config or [], overrides or [])
        threshold = settings.triage.threshold
        pairs = _of_corpus(settings, corpus or [], number, seed)
    if not pairs:
        raise UserError("label sample", run or list(corpus or []), "no pair to label there")
    locate(out, settings.storage).write_text(label_page(pairs, settings.policy, threshold))
    again = (
        f"trace-ray decide --run {run} triage.review_labels=labels.jsonl" if run else "triage.audit_labels=labels.jsonl"
    )
    print(f"{out}: {len(pairs)} pairs; open it in a browser, download labels.jsonl, then {again}")


@label_app.command(epilog="Example: trace-ray label answers --run runs/first --out labels.html")
def answers(
    out: Annotated[str, typer.Option("--out", help="the page to write, such as labels.html")],
    run: Annotated[str, typer.Option("--run", help="a run whose evaluation has finished")],
    number: Annotated[int, typer.Option("--number", min=1, help="prompts on the page, two answers each")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="fixes which prompts are drawn")] = 0,
    overrides: Annotated[list[str] | None, typer.Argument(help="storage.key=value")] = None,
) -> None:
    """Writes one offline page with both models' answers to held-out prompts, drawn at random, blind.

    It downloads labels.jsonl for evaluate.audit_labels: the judge of the answers against them, and agreement corrected by it.
    """
    from trace_ray.triage.labelling.answers import of_answers
    from trace_ray.triage.labelling.page import label_page

    opened, settings, threshold = _opened(run, overrides or [])
    pairs = of_answers(opened, number, seed)
    locate(out, settings.storage).write_text(label_page(pairs, settings.policy, threshold))
    again = f"trace-ray evaluate -c FILE --run {run} evaluate.audit_labels=labels.jsonl"
    print(f"{out}: answers to {len(pairs)} prompts; open it in a browser, download labels.jsonl, then {again}")


def _opened(run: str, overrides: list[str]) -> tuple[Run, Config, float]:
    """Returns a triaged run, its configuration and its threshold."""
    from trace_ray.pipeline import run_folder, stored_config

    opened = run_folder(run, load_storage(overrides))
    return opened, stored_config(opened, run), float(opened.triaged.manifest()["decision"]["threshold"])


def _of_corpus(settings: Config, files: list[str], number: int, seed: int) -> list[Candidate]:
    from trace_ray.corpus.sources import corpus_sources
    from trace_ray.triage.labelling.sample import of_corpus

    named = replace(settings.corpus, paths=tuple(files), test_paths=()) if files else settings.corpus
    if not named.paths:
        raise UserError("--corpus", "none", "name the files to draw from, or set corpus.paths")
    return of_corpus(corpus_sources(named, settings.storage), named, number, seed)


@label_app.command(epilog="Example: trace-ray label merge anna.jsonl ben.jsonl --out labels.jsonl")
def merge(
    files: Annotated[list[str], typer.Argument(help="labels.jsonl of each rater; also storage.key=value")],
    out: Annotated[str, typer.Option("--out", help="the labels on which most agree")],
    decided: Annotated[str, typer.Option("--decided", help="labels of whoever decides what raters differ on")] = "",
    page: Annotated[str, typer.Option("--page", help="write a page of what they differ on; needs --run")] = "",
    run: Annotated[str, typer.Option("--run", help="the run that the pairs are of")] = "",
) -> None:
    """Agreement of several raters, and their labels in one file; what they differ on goes to a page to be decided."""
    from trace_ray.evaluate.rating.agreement import krippendorff_alpha
    from trace_ray.evaluate.rating.results import alpha_word
    from trace_ray.triage.labelling.merge import merge_labels, write_labels
    from trace_ray.triage.labels import read_labels

    names, overrides = parted(files)
    storage = load_storage(overrides)
    judge = read_labels(locate(decided, storage), "--decided") if decided else None
    merged = merge_labels([locate(name, storage) for name in names], judge)
    alpha = krippendorff_alpha(merged.units)
    write_labels(locate(out, storage), merged.labels)
    shown = "" if alpha is None else f"{alpha:.3f}, "
    print(f"{len(names)} raters, Krippendorff's alpha {shown}{alpha_word(alpha)}")
    print(f"{out}: {len(merged.labels)} pairs; {len(merged.differ)} left on which they differ")
    if page:
        _adjudication(page, run, merged.differ, overrides)


def _adjudication(page: str, run: str, differ: list[str], overrides: list[str]) -> None:
    from trace_ray.triage.labelling.answers import answers_named
    from trace_ray.triage.labelling.page import label_page
    from trace_ray.triage.labelling.sample import named_in

    if not run:
        raise UserError("--page", page, "the texts are in the run: name it with --run")
    opened, settings, threshold = _opened(run, overrides)
    pairs = [*named_in(opened, differ, threshold), *answers_named(opened, differ)]
    locate(page, load_storage(overrides)).write_text(label_page(pairs, settings.policy, threshold))
    print(f"{page}: {len(pairs)} pairs to decide; give its labels.jsonl as --decided")
