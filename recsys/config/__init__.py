"""Typed, strict settings.

Defaults live in ``conf/base.yaml`` alone. A file given with ``--conf`` and then overrides of the
form ``section.key=value`` are laid over them; an unknown key or a bad value is an error that
names the key, the value and what is allowed.
"""

from recsys.config.loading import conf_dir, describe_settings, load_settings, local_lake_path
from recsys.config.section import Section
from recsys.config.sections import Als, Evaluate, Generate, Gold, Settings
from recsys.config.training import Model, Train

__all__ = [
    "Als",
    "Evaluate",
    "Generate",
    "Gold",
    "Model",
    "Section",
    "Settings",
    "Train",
    "conf_dir",
    "describe_settings",
    "load_settings",
    "local_lake_path",
]
