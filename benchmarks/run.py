"""All published figures again: `make bench`."""

from __future__ import annotations

import subprocess
import sys

MODULES = tuple(f"benchmarks.{name}" for name in ("etl", "incremental", "skew", "layout", "feed"))


def main() -> None:
    """Run each benchmark in a process of its own; the first that fails ends it."""
    for module in MODULES:
        print(f"== python -m {module}", flush=True)
        subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
