"""The reference of settings, made from the dataclasses: conf/reference.yaml for people, conf/schema.json for editors.

`python -m trace_ray.config.reference` (`make reference`) writes both; a test holds them to the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trace_ray.config import Config
from trace_ray.config.bounds import BOUNDS
from trace_ray.config.fields import AUTO
from trace_ray.config.objective import TermConfig
from trace_ray.config.sources import conf_folder

YAML, SCHEMA = "reference.yaml", "schema.json"
_WIDTH = 118
_HEAD = """\
# Every setting with its default, made from the code by `make reference`: read it, copy what differs, never edit it here.
# "resumes" marks what may differ when a run goes on: speed and place, no result.
"""
_PLAIN = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Any: {},
}
_PLAINLY = {
    "name": "what manifests, report and model card call the policy",
    "version": "changes when the policy does",
    "text": "what every response has to keep to",
    "id": "what verdicts and reports call the clause",
    "path": "hub id, folder or s3:// address",
    "revision": "branch, tag or commit of a hub's model",
    "dtype": "number format of the weights; bfloat16 on a GPU",
    "attention": "which implementation transformers uses",
    "r": "rank",
    "alpha": "scale: the adapter's product is multiplied by alpha / r",
    "dropout": "share of the adapter's inputs left out while training",
    "max_model_len": "tokens of prompt and answer that the engine makes room for",
    "max_actors": "judge actors at most",
    "num_cpus": "cores of one task, actor or worker",
    "num_gpus": "GPUs of one task or actor; less than 1 shares one; auto = where there are GPUs, what its model runs on",
    "escalate_from": "the least P(violates) of the first judge at which ``judge`` is asked",
    "escalate_to": "the greatest such P(violates)",
    "seed": "fixes what is drawn at random",
    "max_retries": "further tries of a task whose node was lost",
    "method": "what reports call this table",
    "loss": "what is done with the category's pairs; skip = nothing",
    "prefer": "the response that is raised or anchored",
    "suppress": "the responses that are lowered",
    "epochs": "times that every pair is shown",
    "epsilon_steps": "steps in a row",
    "learning_rate": "at its peak",
    "schedule": "how it falls after the warm-up",
    "weight_decay": "AdamW's",
    "use_gpu": "one GPU for each worker; auto = where there are GPUs",
    "kv_cache_gib": "memory of the engine's key-value cache on CPU",
    "engine": "further arguments of the vLLM engine",
    "region": "of the bucket, such as us-east-1; empty = AWS_REGION or the profile's",
    "connect_timeout_s": "seconds until a connection is given up",
    "read_timeout_s": "seconds until a silent answer is given up",
    "address": "of a Ray cluster; auto = the one on this machine",
    "local_cpus": "cores of a local Ray",
}
"""For settings whose class thinks that the name says it all: a page without the code around it has to say it."""


def meanings(section: type) -> dict[str, str]:
    """Returns {field: what its class says of it} from the ``Args:`` of the docstring; fields whose name says it all lack.

    >>> from trace_ray.config.judges import EndpointConfig
    >>> meanings(EndpointConfig)["timeout_s"]
    'seconds one request may take.'
    """
    _, _, arguments = inspect.cleandoc(section.__doc__ or "").partition("Args:\n")
    names = "|".join(field.name for field in dataclasses.fields(section))
    heading = rf"(?m)(?:^ {{4}}|(?<=[;.]) )((?:{names})(?:, (?:{names}))*): "
    found = list(re.finditer(heading, arguments))
    said: dict[str, str] = {}
    for number, match in enumerate(found, 1):
        end = found[number].start() if number < len(found) else len(arguments)
        text = " ".join(arguments[match.end() : end].split()).rstrip(";")
        said |= dict.fromkeys(match[1].split(", "), text)
    return said


def reference() -> str:
    """Returns a configuration of all defaults as yaml, each setting below a comment: meaning, choices, bounds."""
    return _HEAD + "\n".join(_section(Config, Config(), ""))


def _section(section: type, node: Any, prefix: str) -> Iterator[str]:
    indent, said = "  " * prefix.count("."), meanings(section)
    for field in dataclasses.fields(section):
        value, name = getattr(node, field.name), f"{prefix}{field.name}"
        inner = _inner(typing.get_type_hints(section)[field.name])
        if not prefix:
            yield ""
        yield from _comment(_about(field, name, said.get(field.name, _PLAINLY.get(field.name, "")), inner), indent)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:"
            yield from _section(type(value), value, f"{name}.")
        else:
            yield f"{indent}{field.name}: {_value(value)}"


def _about(field: dataclasses.Field[Any], name: str, said: str, inner: type | None) -> list[str]:
    notes = [said or (inner.__doc__ or "").splitlines()[0] if inner else said]
    if choices := field.metadata.get("choices"):
        more = ", or another package's" if "plugins" in field.metadata else ""
        notes.append(f"one of: {', '.join(choice or repr(choice) for choice in choices)}{more}")
    if words := field.metadata.get("switch"):
        notes.append(f"one of: false, true, {', '.join(words)}")
    if name in BOUNDS:
        notes.append(f"bounds: {BOUNDS[name][1].removeprefix('give ')}")
    if inner and (field.default_factory is list or field.default is None):
        notes.append(f"its settings: {', '.join(setting.name for setting in dataclasses.fields(inner))}")
    return [*notes, "resumes"] if field.metadata.get("resource") else notes


def _comment(notes: list[str], indent: str) -> Iterator[str]:
    line = f"{indent}#"
    for word in " | ".join(notes).split():
        if len(line) + len(word) + 1 > _WIDTH:
            yield line
            line = f"{indent}#"
        line += f" {word}"
    yield line


def _value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _inner(hint: Any) -> type | None:
    """Returns the dataclass that a field holds, perhaps or in a list; None where it holds something else."""
    inside = [hint, *(typing.get_args(hint) if typing.get_origin(hint) in (list, types.UnionType) else ())]
    return next((kind for kind in inside if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def schema() -> dict[str, Any]:
    """Returns a JSON schema (draft 2020-12) of a configuration file; ``include`` stands beside the settings."""
    found: dict[str, Any] = {}
    top = _object(Config, found)
    top["properties"]["include"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "files to read before this one",
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "trace-ray"}
    return head | top | {"$defs": dict(sorted(found.items()))}


def _object(section: type, found: dict[str, Any]) -> dict[str, Any]:
    hints, said = typing.get_type_hints(section), meanings(section)
    properties = {}
    for field in dataclasses.fields(section):
        allowed = _type(hints[field.name], found)
        if choices := field.metadata.get("choices"):
            allowed = (
                {"anyOf": [{"enum": list(choices)}, allowed]}
                if "plugins" in field.metadata
                else {"enum": list(choices)}
            )
        if words := field.metadata.get("switch"):
            allowed = {"anyOf": [{"type": "boolean"}, {"enum": list(words)}]}
        if field.metadata.get("auto"):
            kinds = typing.get_args(hints[field.name])
            kind = "boolean" if bool in kinds else "number" if float in kinds else "integer"
            allowed = {"anyOf": [{"const": AUTO}, {"type": kind}]}
        if text := said.get(field.name, _PLAINLY.get(field.name)):
            allowed = allowed | {"description": text}
        properties[field.name] = allowed
    # Beside a loss its own parameters may stand, which the loss knows and not the tree of settings.
    others: Any = {"type": ["number", "boolean"]} if section is TermConfig else False
    return {"type": "object", "additionalProperties": others, "properties": properties}


def _type(hint: Any, found: dict[str, Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if hint.__name__ not in found:
            found[hint.__name__] = {}  # a section that holds its own kind ends here
            found[hint.__name__] = _object(hint, found)
        own = {"$ref": f"#/$defs/{hint.__name__}"}
        return {"anyOf": [own, {"type": "array", "items": own}]} if hint is TermConfig else own
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return {
            "anyOf": [
                {"type": "null"} if argument is types.NoneType else _type(argument, found) for argument in arguments
            ]
        }
    if origin in (list, tuple):
        return {"type": "array", "items": _type(arguments[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], found)}
    return dict(_PLAIN[hint])


def write(folder: Path) -> None:
    """Writes both files into ``folder``."""
    (folder / YAML).write_text(reference() + "\n", encoding="utf-8")
    (folder / SCHEMA).write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(conf_folder())
