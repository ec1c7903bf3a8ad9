"""What a search may try: a YAML file of settings, each with a list of values or a range."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

from pydantic import ValidationError

from recsys.config.loading import (
    SPACE_FILE,
    check_keys,
    explain,
    find_conf,
    merge,
    nest,
    read_conf,
)
from recsys.config.settings import Settings
from recsys.errors import ConfigError

_SECTIONS = ("model", "train")
_OTHER_MEASURE = "trials of unlike measures can't be compared"
_OTHER_PLACE = "it says where or how a training runs, not what comes out"
_FIXED = {
    "model.kind": _OTHER_MEASURE,
    "train.task": _OTHER_MEASURE,
    "train.exclude_own_items": _OTHER_MEASURE,
    "train.seed": "the luckiest seed is no better setting",
    **dict.fromkeys(
        ("train.launcher", "train.ranks", "train.hosts", "train.threads_per_rank"), _OTHER_PLACE
    ),
    **dict.fromkeys(
        ("train.parallel.pipeline_stages", "train.parallel.micro_batches"), _OTHER_PLACE
    ),
    **dict.fromkeys(
        ("train.device", "train.checkpoint_dir", "train.checkpoint_every_steps"), _OTHER_PLACE
    ),
}
_FORM = "give a list of values, or {low: ..., high: ...} with log: true or step: ..."


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included.

    Attributes:
        log: drawn alike on a logarithmic scale.
        step: distance of two values, counted from ``low``; None: any (of whole numbers, 1).
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


Space: TypeAlias = dict[str, Choice | Range]


def read_space(path: str | Path, settings: Settings) -> Space:
    """Read a space; keys are checked as those of ``--conf``, and values as settings.

    Args:
        path: a YAML file; a name without a folder may be one in ``conf/``.
        settings: into which the values are to be put.

    Raises:
        ConfigError: the file is missing, a key is unknown or can't be searched, a value is not
            allowed for its setting.
    """
    if not find_conf(path).exists():
        raise ConfigError(f"space {path} does not exist", do=f"conf/{SPACE_FILE} is one")
    content = read_conf(path)
    if not content:
        raise ConfigError(f"the space {path} is empty", do=f"for each setting, {_FORM}")
    space: Space = {}
    for key, given in content.items():
        _check_key(str(key), str(path))
        space[key] = found = _read_values(str(key), given, str(path))
        ends = found.values if isinstance(found, Choice) else (found.low, found.high)
        for value in ends:
            _check_value(settings, str(key), value, str(path))
    return space


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A copy of the settings with these values, by dotted key.

    Raises:
        ConfigError: a value is not allowed, or they contradict each other.
    """
    try:
        return _put(settings, values)
    except ValidationError as error:
        raise explain(error, dict.fromkeys(values, "the values of the search")) from None


def group_by_section(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"dims": 8}}`` of ``{"model.dims": 8}``."""
    return functools.reduce(merge, (nest(key, value) for key, value in values.items()), {})


def conf_with(
    conf: str | Path | None, settings: Settings, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What a ``--conf`` file must hold to train ``settings`` with ``values``.

    Args:
        conf: the file that ``settings`` came from; what it says of other sections stays.
    """
    base = Settings.model_validate(read_conf("base.yaml")).model_dump(mode="json")
    wanted = with_values(settings, values).model_dump(mode="json")
    content = read_conf(conf)
    for section in ("feed", *_SECTIONS):
        differ = {k: v for k, v in wanted[section].items() if v != base[section][k]}
        content = {**content, section: differ}
    content = merge(content, group_by_section(values))
    return {section: value for section, value in content.items() if value}


def _put(settings: Settings, values: Mapping[str, Any]) -> Settings:
    return Settings.model_validate(merge(settings.model_dump(), group_by_section(values)))


def _check_key(key: str, path: str) -> None:
    check_keys(nest(key, None), Settings, where=path)
    section = key.partition(".")[0]
    if section not in _SECTIONS:
        raise ConfigError(
            f"{key} can't be searched: the night's training windows are made already",
            where=path,
            do=f"a space holds settings of {' and '.join(_SECTIONS)}",
        )
    if key in _FIXED:
        raise ConfigError(
            f"{key} can't be searched: {_FIXED[key]}",
            where=path,
            do=f"set it for the whole search: recsys search ... {key}=...",
        )


def _read_values(key: str, given: Any, path: str) -> Choice | Range:
    if isinstance(given, list) and given:
        return Choice(tuple(given))
    kinds = _kinds_of(key)
    numeric = not kinds.isdisjoint({int, float})
    if numeric and isinstance(given, dict) and {"low", "high"} <= given.keys():
        return _read_range(key, given, int in kinds, path)
    raise ConfigError(f"{key}={given!r} is no space of values", where=path, do=_FORM)


def _read_range(key: str, given: Mapping[str, Any], whole: bool, path: str) -> Range:
    def refuse(what: str) -> ConfigError:
        return ConfigError(f"{key}: {what}", where=path, do=_FORM)

    if unknown := sorted(map(str, given.keys() - {"low", "high", "log", "step"})):
        raise refuse(f"{unknown[0]} is not known")
    for name in given.keys() - {"log"}:
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number (in YAML write 0.001 or 1.0e-3)"
            raise refuse(f"{name}={value!r} is not {kind}")
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise refuse(f"log={log!r} is not true or false")
    if low >= high:
        raise refuse(f"low={low} is not below high={high}")
    if log and (low <= 0 or step is not None):
        raise refuse("log needs a low above 0 and takes no step")
    if step is not None and step <= 0:
        raise refuse(f"step={step} is not above 0")
    return Range(low, high, log, step, whole)


def _kinds_of(key: str) -> set[Any]:
    """Types that a setting takes: of ``float | None`` both."""
    annotation: Any = Settings
    for name in key.split("."):
        annotation = annotation.model_fields[name].annotation
    return {annotation, *get_args(annotation)}


def _check_value(settings: Settings, key: str, value: Any, path: str) -> None:
    """Refuse what the setting never allows; what contradicts another setting may fit elsewhere."""
    try:
        _put(settings, {key: value})
    except ValidationError as error:
        if error.errors()[0]["loc"]:
            raise explain(error, {key: path}) from None
