"""The second half of ``recsys/schemas``: what must hold in each table after each night.

A check is declared here, measured by ``recsys/lake/quality.py`` and judged by
``recsys/lake/judge.py``; its result is a row of ops/checks. Red ones stop the night before
publishing, yellow ones are shown. Conditions are Spark SQL, so this room needs no engine.
"""

from recsys.checks.declared import *
from recsys.checks.kinds import *
