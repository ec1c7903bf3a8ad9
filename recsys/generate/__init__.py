"""A behaviour log of an invented shop, for demos, tests and load: same seed, same bytes."""

from recsys.generate.log import GeneratedLog, generate_log

__all__ = ["GeneratedLog", "generate_log"]
