"""Settings of exports: targets of each kind, what is refused, and never a secret in a message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from recsys.cli.export import only
from recsys.config import TARGET_KINDS, load_settings
from recsys.errors import ConfigError
from recsys.export.secrets import read_password
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.core

PAGE = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
REDIS = {"kind": "redis", "url": "redis://cache:6379/0", "prefix": "lists"}
POSTGRES = {"kind": "postgres", "url": "postgresql://db/shop", "table": "top_n", "user": "writer"}
SECRET = "hunter2"


def fail(**changed: object) -> str:
    base = {"redis": REDIS, "postgres": POSTGRES}.get(str(changed.get("kind")), {})
    given = {**base, **changed}
    target = {key: value for key, value in given.items() if value is not ...}
    with pytest.raises(ConfigError) as caught:
        load_settings(None, [f"export.targets.shop={yaml.safe_dump(target)}"])
    assert caught.value.where == "command line"
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "mongo"}, "export.targets.shop.kind='mongo' is not known"),
        ({"path": "/x"}, "export.targets.shop.kind is missing"),
        ({"kind": "redis", "prefix": ...}, "export.targets.shop.prefix is missing"),
        ({"kind": "redis", "url": "http://h"}, "export.targets.shop.url='http://h' is not allowed"),
        ({"kind": "redis", "url": f"redis://u:{SECRET}@h"}, "must hold neither user nor password"),
        ({"kind": "redis", "url": f"redis://h?password={SECRET}"}, "must hold neither user nor"),
        (
            {"kind": "redis", "url": f"http://u:{SECRET}@h"},
            "export.targets.shop.url is not allowed",
        ),
        ({"kind": "redis", "password": SECRET}, "unknown setting export.targets.shop.password"),
        ({"kind": "postgres", "user": ...}, "export.targets.shop.user is missing"),
        ({"kind": "postgres", "table": "a;b"}, "export.targets.shop.table='a;b' is not allowed"),
        ({"kind": "postgres", "url": "postgresql://db/x?sslmode=prefer"}, "only ?sslmode= disable"),
        ({"kind": "postgres", "password_env": "A", "password_file": "b"}, "exclude each other"),
    ],
)
def test_a_target_that_can_not_be_is_refused_by_key(changed: dict[str, object], said: str) -> None:
    assert said in fail(**changed)


def test_two_targets_in_one_place_and_odd_names_are_refused() -> None:
    two = {"a": {"kind": "parquet", "path": "/x"}, "b": {"kind": "jsonl", "path": "/x/"}}
    for targets, said in ((two, "a and b are the same place"), ({"A b": two["a"]}, "'A b'")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load_settings(None, [f"export.targets={yaml.safe_dump(targets)}"])


def test_only_the_targets_that_are_asked_for_are_left() -> None:
    settings = load_settings(
        None, [f"export.targets={yaml.safe_dump({'a': REDIS, 'b': POSTGRES})}"]
    )
    assert list(only(settings, ["b"]).export.targets) == ["b"]
    assert only(settings, None) == settings
    with pytest.raises(ConfigError, match="--target=c is not among") as caught:
        only(settings, ["a", "c"])
    assert caught.value.do == "known: a, b"
    with pytest.raises(ConfigError, match="nowhere to export to"):
        only(load_settings(), None)


def test_a_password_is_read_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    target = TARGET_KINDS["redis"](**REDIS, password_file=str(path))
    assert read_password(target, "at") == SECRET  # type: ignore[arg-type]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_password(target, "at")  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(ConfigError, match=r"at\.password_file can't be read: No such file"):
        read_password(target, "at")  # type: ignore[arg-type]


def test_examples_of_the_page_are_settings_and_name_every_kind(tmp_path: Path) -> None:
    kinds = set()
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        kinds |= {target.kind for target in load_settings(path).export.targets.values()}
    assert kinds == set(TARGET_KINDS)


def test_the_page_names_every_setting_of_a_target() -> None:
    names = {name for kind in TARGET_KINDS.values() for name in kind.model_fields}
    rows = re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(names)
