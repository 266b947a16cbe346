"""`trace-ray rate`: blind comparisons for people and for judges, and their win rates."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trace_ray.cli.options import parted
from trace_ray.config.load import load_config, load_storage
from trace_ray.errors import UserError
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import Location, locate

rating_app = typer.Typer(no_args_is_help=True, help="Blind comparisons for people and for judges, and their win rates.")

Out = Annotated[str, typer.Option("--out", help="folder of the export")]
_RESAMPLES = 2000


@rating_app.command(epilog="Example: trace-ray rate export runs/first --out runs/ratings")
def export(
    runs: Annotated[
        list[str], typer.Argument(help="one run (against its base), or two or three; also storage.key=value")
    ],
    out: Out,
    items: Annotated[int, typer.Option("--items", min=0, help="comparisons at most; 0 = all")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="fixes which prompts and which letters")] = 0,
    base: Annotated[bool, typer.Option("--base", help="with two runs: the first one's base as a third")] = False,
) -> None:
    """Writes items.csv and rater.html, blind, and key.json, which raters must not see."""
    from trace_ray.evaluate.rating.stage import export_items
    from trace_ray.pipeline import run_folder, stored_config

    uris, overrides = parted(runs)
    if not uris:
        raise UserError("rate export", "no run", "name one run, or two or three")
    storage = load_storage(overrides)
    opened = [run_folder(uri, storage) for uri in uris]
    place = locate(out, storage)
    written = export_items(opened, stored_config(opened[0], uris[0]).policy, place, items, seed, with_base=base)
    print(f"{written} items: give raters {out}/rater.html or {out}/items.csv; keep {out}/key.json")


@rating_app.command(epilog="Example: trace-ray rate panel -c my.yaml --out runs/ratings")
def panel(
    out: Out,
    config: Annotated[list[str], typer.Option("-c", "--config", help="yaml with the policy and evaluate.panel")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value")] = None,
    margin: Annotated[float, typer.Option("--margin", help="smaller differences of P(violates) are ties")] = 0.1,
) -> None:
    """Lets the judges of evaluate.panel vote; writes panel.csv."""
    from trace_ray.evaluate.rating.stage import run_panel
    from trace_ray.pipeline import absolute_models

    asked = absolute_models(load_config(config, overrides or []))
    judges = run_panel(locate(out, asked.storage), asked, margin)
    print(f"{judges} judges: {out}/panel.csv")


@rating_app.command(epilog="Example: trace-ray rate score anna.csv ben.csv --out runs/ratings")
def score(
    files: Annotated[list[str], typer.Argument(help="CSV files that raters or the panel made; also storage.key=value")],
    out: Out,
    as_json: Annotated[bool, typer.Option("--json", help="the results as they stand in results.json")] = False,
) -> None:
    """Win rates with 95 % intervals and Krippendorff's alpha; writes results.json."""
    from trace_ray.evaluate.rating.stage import score_ratings

    names, overrides = parted(files)
    storage = load_storage(overrides)
    places: list[Location] = [locate(name, storage) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if not place.exists()]
    if missing:
        raise UserError("rate score", missing[0], "no such file")
    results = score_ratings(locate(out, storage), places, _RESAMPLES, 0)
    if as_json:
        print(strict_json(results))
        return
    table = Table("system", "against", "win rate, %", "95 % interval", "wins", "ties", "losses", "items", box=None)
    for row in results["win_rates"]:
        shown = "-" if row["win_rate"] is None else f"{row['win_rate']:.1f}"
        interval = "-" if row["interval"] is None else "[{:.1f}, {:.1f}]".format(*row["interval"])
        counts = [str(row[name]) for name in ("wins", "ties", "losses", "items")]
        table.add_row(Text(row["system"]), Text(row["against"]), shown, interval, *counts)
    Console().print(table)
    alpha = "" if results["alpha"] is None else f" {results['alpha']:.3f}:"
    print(f"raters: {len(results['raters'])}, Krippendorff's alpha{alpha} {results['alpha_is']}")
    for row in results.get("helpful", {}).get("win_rates", []):
        if row["win_rate"] is not None:
            print(f"more helpful: {row['system']} against {row['against']} {row['win_rate']:.1f} %")
    print(f"prompts that all systems answered alike, not shown: {results['identical_answers']}")
