"""The tables of the command line show names as they are, whatever rich would read in them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from trace_ray.cli.tables import comparison_table, summary_tables
from trace_ray.compare.table import Line


def shown(*tables: Table) -> str:
    out = io.StringIO()
    for table in tables:
        Console(file=out, width=200).print(table)
    return out.getvalue()


@pytest.mark.parametrize("name", ["forum [/b] posts", "hh[train]", "back\\slash\\", "a :warning: sign"])
def test_names_from_data_are_not_markup(name: str) -> None:
    by_source = {"base": {name: 1.0}, "realigned": {name: 2.0}}
    evaluation = {"tpa": {"base": {}, "realigned": {}}, "n": {}, "tpa_by_source": by_source, "n_by_source": {name: 3}}
    summary = {"counts": {}, "seconds": {}, "evaluation": evaluation}
    assert name in shown(*summary_tables(summary))
    said = shown(comparison_table([name], [Line("TPA, %", f"  {name}", ["1.0"])]))
    assert said.count(name) == 2
