"""The daemon that forks Spark's Python workers, with what ranks users imported.

Each worker would import torch by itself, two seconds of a core: from here all have it at once.
Named by ``spark.python.daemon.module``; Spark's own one else.
"""

from __future__ import annotations

from pyspark.daemon import manager

import recsys.score.workers  # noqa: F401 (for the workers)

if __name__ == "__main__":
    manager()
