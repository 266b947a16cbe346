"""The one table of losses. A file of this folder adds those that its ENTRIES hold; so does another package's entry point.

A package of its own names the group ``trace_ray.losses`` in its metadata, and there ``name = "module:ENTRY"``, an ENTRY being a
``Loss``; or a term names ``module:ENTRY`` itself. What reads a loss reads this table: configuration, scoring, training, plan,
report and documents.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points

from trace_ray.errors import UserError, nearest
from trace_ray.objective.losses.anchors import token_kl, top_k_kl
from trace_ray.objective.losses.entry import WEIGHT, Loss, Parameter, Parameters, Reads, Response
from trace_ray.objective.losses.relations import dpo, ipo, rdpo
from trace_ray.objective.losses.suppression import npo, sum_terms

__all__ = [
    "LOSSES",
    "WEIGHT",
    "Loss",
    "Parameter",
    "Parameters",
    "Reads",
    "Response",
    "dpo",
    "find_loss",
    "ipo",
    "npo",
    "rdpo",
    "sum_terms",
    "token_kl",
    "top_k_kl",
]

GROUP = "trace_ray.losses"


def _own() -> dict[str, Loss]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {entry.name: entry for module in modules for entry in getattr(module, "ENTRIES", ())}


LOSSES = _own()
"""Name -> loss, of this package."""


def find_loss(name: str) -> Loss:
    """Returns the entry of a loss, of this package or of another that is installed, by its name or as ``module:ENTRY``.

    Raises: UserError for a name that none has, and for an entry that cannot be imported or is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    foreign = {point.name: point for point in entry_points(group=GROUP)}
    point = foreign.get(name) or (EntryPoint(name, name, GROUP) if ":" in name else None)
    if point is None:
        known = [*LOSSES, *foreign]
        raise UserError("loss", name, f"use one of {', '.join(map(repr, known))}{nearest(name, known)}")
    try:
        entry = point.load()
    except (ImportError, AttributeError) as error:
        remedy = f"cannot be imported here: {' '.join(str(error).split())}; install its package wherever a stage runs"
        raise UserError("loss", name, remedy) from None
    if not isinstance(entry, Loss) or (name in foreign and entry.name != name):
        raise UserError("loss", name, f"{point.value} is no Loss of this name: mend that package")
    LOSSES[name] = entry
    return entry


def shared_numbers() -> list[Parameter]:
    """Returns the parameters, switches left out, that a term takes from ``objective`` where it does not give them itself."""
    found = {p.name: p for loss in LOSSES.values() for p in loss.parameters if p.default is None and not p.switch}
    return list(found.values())
