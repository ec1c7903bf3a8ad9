"""Typed, strict settings.

Defaults live in ``conf/base.yaml`` alone. A file given with ``--conf`` and then overrides of the
form ``section.key=value`` are laid over them; an unknown key or a bad value is an error that
names the key, the value and what is allowed.
"""

from recsys.config.exchange import Exchange
from recsys.config.export import (
    TARGET_KINDS,
    Export,
    FileTarget,
    PostgresTarget,
    RedisTarget,
    StoreTarget,
)
from recsys.config.gate import Gate
from recsys.config.generate import Generate
from recsys.config.lake import Gold
from recsys.config.lists import Als, Evaluate, Score
from recsys.config.loading import conf_dir, describe_settings, load_settings, local_lake_path
from recsys.config.pretraining import derive_pretraining
from recsys.config.rules import RUN_DATE, Filter, Pin, Rules
from recsys.config.section import Section
from recsys.config.settings import Settings
from recsys.config.space import (
    Choice,
    Range,
    Space,
    conf_with,
    group_by_section,
    read_space,
    with_values,
)
from recsys.config.training import Model, Train

__all__ = [
    "RUN_DATE",
    "TARGET_KINDS",
    "Als",
    "Choice",
    "Evaluate",
    "Exchange",
    "Export",
    "FileTarget",
    "Filter",
    "Gate",
    "Generate",
    "Gold",
    "Model",
    "Pin",
    "PostgresTarget",
    "Range",
    "RedisTarget",
    "Rules",
    "Score",
    "Section",
    "Settings",
    "Space",
    "StoreTarget",
    "Train",
    "conf_dir",
    "conf_with",
    "derive_pretraining",
    "describe_settings",
    "group_by_section",
    "load_settings",
    "local_lake_path",
    "read_space",
    "with_values",
]
