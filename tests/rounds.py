"""How often a stress test repeats what it does."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("RECSYS_ROUNDS", "30"))
