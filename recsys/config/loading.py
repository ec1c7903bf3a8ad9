"""From YAML files and overrides to settings, and errors that name key, value and source."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from recsys.config.export import explain_target
from recsys.config.settings import Settings
from recsys.errors import ConfigError

SPACE_FILE = "search.yaml"
"""In ``conf/``, but no settings: what a search tries (see ``space``)."""


def conf_dir() -> Path:
    """The folder with ``base.yaml``: beside the package in a clone, else where it was installed."""
    beside = Path(__file__).resolve().parents[2] / "conf"
    return beside if (beside / "base.yaml").exists() else Path(sys.prefix) / "share/recsys/conf"


def load_settings(
    conf: str | Path | None = None,
    overrides: Iterable[str] = (),
    suited: Mapping[str, Any] | None = None,
) -> Settings:
    """Read ``base.yaml``, lay ``conf`` and then ``section.key=value`` overrides over it.

    Args:
        conf: a YAML file with differences; ``None`` takes ``local.yaml``.
        overrides: e.g. ``["train.ranks=4", "lake.root=/data/lake"]``, values in YAML.
        suited: what suits the log (``settings`` of its format), right above ``base.yaml``.

    Raises:
        ConfigError: a file is missing or not YAML, a key is unknown, a value is not allowed.
    """
    merged = _read_yaml(conf_dir() / "base.yaml")
    sources = dict.fromkeys(_leaves(merged), "conf/base.yaml")
    layers = [("settings of the log's format", dict(suited or {}))]
    layers += [(str(conf or "conf/local.yaml"), read_conf(conf))]
    layers += [("command line", _parse_override(text)) for text in overrides]
    for name, layer in layers:
        check_keys(layer, Settings, where=name)
        sources.update(dict.fromkeys(_leaves(layer), name))
        merged = merge(merged, layer)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise explain(error, sources) from None


def describe_settings() -> list[tuple[str, str, Any, str]]:
    """Every setting as (key, type, default, meaning), for ``recsys config`` and the docs."""
    base = _read_yaml(conf_dir() / "base.yaml")
    rows: list[tuple[str, str, Any, str]] = []
    _describe(Settings, base, "", rows)
    return rows


def _describe(
    kind: type[BaseModel], values: Mapping[str, Any], prefix: str, rows: list[Any]
) -> None:
    for name, spec in kind.model_fields.items():
        key, value = prefix + name, values.get(name)
        nested = section_of(spec.annotation)
        if nested is not None:
            _describe(nested, value or {}, key + ".", rows)
        else:
            rows.append((key, _type_name(spec.annotation), value, spec.description or ""))


def _type_name(annotation: Any) -> str:
    if annotation in (int, float, str, bool):
        return str(annotation.__name__)
    if str(annotation).startswith("typing.Literal"):
        return " | ".join(get_args(annotation))
    if "Annotated" in str(annotation):
        return "dict of sections"
    if entry := _entry_of(annotation):
        return f"list of {{{', '.join(entry.model_fields)}}}"
    return str(annotation).replace("NoneType", "null").replace("None", "null")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, or None."""
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _entry_of(annotation: Any) -> type[BaseModel] | None:
    """The section that each entry of a list of this type holds, or None."""
    first = next(iter(get_args(annotation)), None)
    return section_of(first) if get_origin(annotation) is tuple else None


def read_conf(conf: str | Path | None) -> dict[str, Any]:
    """What a ``--conf`` file holds; ``None`` is ``local.yaml``.

    Raises:
        ConfigError: the file is missing or not YAML.
    """
    return _read_yaml(find_conf(conf))


def find_conf(conf: str | Path | None) -> Path:
    """The file that ``--conf`` means: a name that does not exist may be one in ``conf/``."""
    if conf is None:
        return conf_dir() / "local.yaml"
    path = Path(conf)
    shipped = conf_dir() / path.name
    return shipped if not path.exists() and shipped.exists() else path


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(p.name for p in conf_dir().glob("*.yaml") if p.name != SPACE_FILE)
        raise ConfigError(
            f"config file {path} does not exist", do=f"shipped ones: {', '.join(known)}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} can't be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold sections, not a {type(content).__name__}")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"override {text!r} is not of the form section.key=value")
    try:
        layer: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        layer = value
    return nest(key.strip(), layer)


def nest(key: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` of the dotted key ``a.b``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def check_keys(layer: Mapping[str, Any], kind: type[BaseModel], where: str, at: str = "") -> None:
    """Refuse keys that ``kind`` does not have, with the nearest known one.

    Raises:
        ConfigError: a key is unknown, or a section is given a value.
    """
    for name, value in layer.items():
        if name not in kind.model_fields:
            known = [at + field for field in kind.model_fields]
            near = difflib.get_close_matches(str(name), kind.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {at}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown setting {at}{name}", where=where, do=hint)
        nested = section_of(kind.model_fields[name].annotation)
        if nested is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{at}{name} is a section, not a value: {value!r}", where=where)
            check_keys(value, nested, where, f"{at}{name}.")


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` says laid over it, section by section."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in tree.items():
        key = prefix + str(name)
        found += _leaves(value, key + ".") if isinstance(value, Mapping) else [key]
    return found


def explain(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """The error in words: key, value, what is allowed, and the key's source."""
    first = error.errors()[0]
    of_target = explain_target(first, sources)
    if of_target is not None:
        return of_target
    key = ".".join(str(part) for part in first["loc"])
    if not key:
        return ConfigError(first["msg"].removeprefix("Value error, "))
    # The error may lie within a value: gold.length_buckets.1 is the second of them.
    rows = describe_settings()
    setting, meaning = next(
        ((row[0], row[3]) for row in rows if f"{key}.".startswith(f"{row[0]}.")), (key, "")
    )
    source = next((name for at, name in sources.items() if f"{at}.".startswith(f"{setting}.")), "")
    if first["type"] == "missing":
        return ConfigError(
            f"{key} is missing", where=source or "conf/base.yaml", do="give it a value"
        )
    if first["type"] == "extra_forbidden":
        return ConfigError(f"unknown setting {key}", where=source, do=f"{setting}: {meaning}")
    message = first["msg"].removeprefix("Value error, ")
    allowed = message[0].lower() + message[1:]
    return ConfigError(
        f"{key}={first['input']!r} is not allowed: {allowed}",
        where=sources.get(key, source),
        do=f"{setting}: {meaning}" if meaning else "",
    )


def local_lake_path(root: str) -> Path | None:
    """The lake's folder when it lies on this machine (or a mounted file system), else ``None``."""
    scheme, separator, rest = root.partition("://")
    if separator and scheme != "file":
        return None
    return Path(rest if separator else root.removeprefix("file:")).absolute()
