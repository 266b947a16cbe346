"""From yaml files and dotted overrides to a checked ``Config``; every mistake is one line naming setting, value, remedy."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from trace_ray.config import Config, StorageConfig
from trace_ray.config.check import check_config
from trace_ray.config.sampler import with_sampler
from trace_ray.config.secrets import refuse_secrets
from trace_ray.config.sources import conf_folder, layers, mapping, parse
from trace_ray.config.templates import with_template_texts
from trace_ray.config.terms import written_out
from trace_ray.errors import UserError, nearest


def method_names() -> list[str]:
    """Returns the rows of conf/methods."""
    return sorted(path.stem for path in (conf_folder() / "methods").glob("*.yaml"))


def method_file(name: str) -> Path:
    """Returns conf/methods/NAME.yaml. Raises UserError with the known names otherwise."""
    known = method_names()
    if name not in known:
        raise UserError("--method", name, f"use one of {', '.join(known)}{nearest(name, known)}")
    return conf_folder() / "methods" / f"{name}.yaml"


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = (), method: str | None = None) -> Config:
    """Returns ``read_config``'s configuration once it is checked. Raises UserError as that does, and for settings at odds."""
    config = read_config(files, overrides, method)
    check_config(config)
    return config


def read_config(files: Sequence[str | Path], overrides: Sequence[str] = (), method: str | None = None) -> Config:
    """Merges defaults, files in order, the method's row and overrides; values are not checked.

    Args:
        files: yaml files, s3:// addresses or names of shipped files (models/llama-3.1-8b); each may name others to read
            before it under ``include``, relative to itself or shipped.
        overrides: ``key.path=value``, the value in yaml.
        method: a row of conf/methods, instead of any that the files include.
    Raises: UserError for an unreadable file, an unknown key or a wrong type.
    """
    reached = load_storage([text for text in overrides if text.startswith("storage.")])
    found = [layer for source in files for layer in layers(str(source), reached)]
    if method:
        rows = {str(row.resolve()) for row in (conf_folder() / "methods").glob("*.yaml")}
        found = [layer for layer in found if layer.place not in rows]
        found += layers(str(method_file(method)), reached)
    written = [(layer.called, layer.values) for layer in found]
    return _merged([*written, *((f"override {text}", _override(text)) for text in overrides)])


def load_storage(overrides: Sequence[str]) -> StorageConfig:
    """Returns how a run in S3 is reached, from ``storage.key=value`` alone: its own settings are in its folder."""
    for text in overrides:
        if not text.startswith("storage."):
            raise UserError("override", text, "only storage.key=value is read here, such as storage.endpoint=URL")
    if not overrides:
        return StorageConfig()
    return _merged([(f"override {text}", _override(text)) for text in overrides]).storage


def load_text(text: str, where: str) -> Config:
    """Returns a checked configuration from yaml that ``dump_config`` wrote into a run's folder."""
    config = _merged([(where, mapping(text, where))])
    check_config(config)
    return config


def _merged(layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged = deepcopy(_defaults())
    for where, given in written_out(layers):
        values = _list_of_one(given)
        refuse_secrets(where, values)
        _refuse_flat_sections(where, values, Config(), "")
        try:
            # In place: ``merge`` would copy the whole tree for each layer.
            merged = OmegaConf.unsafe_merge(merged, OmegaConf.create(values))
        except OmegaConfBaseException as error:
            raise UserError(where, error.full_key or "", _explain(error)) from None
        except TypeError:
            raise UserError(where, "a list or a mapping", "the setting is of the other kind; give it whole") from None
    try:
        return with_sampler(with_template_texts(cast(Config, OmegaConf.to_object(merged))))
    except OmegaConfBaseException as error:
        raise UserError("configuration", error.full_key or "", str(error).splitlines()[0]) from None


@cache
def _defaults() -> Any:
    """The tree of all settings, which takes longer to make than to copy."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(Config)


def _list_of_one(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with ``lora.target_modules: all-linear``, as PEFT spells it, as the list that it is here."""
    lora = values.get("lora")
    if isinstance(lora, dict) and lora.get("target_modules") == "all-linear":
        return {**values, "lora": {**lora, "target_modules": ["all-linear"]}}
    return values


def _refuse_flat_sections(where: str, values: dict[str, Any], node: Any, prefix: str) -> None:
    """Raises UserError for a section that is given a plain value; the merge would name neither."""
    for name, value in values.items():
        child, full = getattr(node, str(name), None), f"{prefix}{name}"
        if is_dataclass(child) and not isinstance(value, dict):
            remedy = f"{full} is a section: give its settings, such as {full}.{fields(child)[0].name}"
            raise UserError(where, value, remedy)
        if is_dataclass(child):
            _refuse_flat_sections(where, value, child, f"{full}.")


def dump_config(config: Config) -> str:
    """Returns the resolved configuration as yaml; loading it gives the same configuration."""
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(OmegaConf.structured(config)))


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if text.endswith((".yaml", ".yml")) and not equals:
        raise UserError("override", text, f"a file of settings is given with -c: -c {text}")
    if not equals or not all(key.split(".")):
        raise UserError("override", text, "write it as key.path=value")
    try:
        nested: Any = parse(value) if value else ""
    except ValueError as error:
        raise UserError(f"override {key}", "not yaml", " ".join(str(error).split())) from None
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return cast(dict[str, Any], nested)


def _explain(error: Exception) -> str:
    message = str(error).splitlines()[0]
    section, key = getattr(error, "object_type", None), str(getattr(error, "key", ""))
    if "not in" in message and is_dataclass(section):
        siblings = [item.name for item in fields(section)]
        section_name = str(getattr(error, "full_key", "")).removesuffix(key)
        number = [
            sibling for sibling in siblings if sibling.removesuffix("s") == key.removesuffix("s")
        ]  # path for paths
        meant = f" (did you mean '{section_name}{number[0]}'?)" if number else _elsewhere(key) or nearest(key, siblings)
        return f"unknown setting{meant}; known here: {', '.join(siblings)}"
    if "is not a TupleConfig" in message:
        return "it is a list: write it in brackets, [one, two]"
    if "is not a subclass of" in message:
        return "it is a section: give its settings, {backend: rules}"
    return message


def _elsewhere(key: str) -> str:
    """Returns `` (did you mean 'realign.learning_rate'?)`` for a setting's name without its section, else an empty string."""
    config = Config()
    sections = [item.name for item in fields(config) if is_dataclass(getattr(config, item.name))]
    found = [name for name in sections if key in {item.name for item in fields(getattr(config, name))}]
    return f" (did you mean '{found[0]}.{key}'?)" if len(found) == 1 else ""
