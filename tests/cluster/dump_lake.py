"""Submitted to the cluster: dump_lake.py LAKE FILE [OVERRIDE...] writes what readers can see."""

import json
import sys
from pathlib import Path

from recsys.config import load_settings
from recsys.lake.session import build_session
from tests.e2e.small_night import read_state

if __name__ == "__main__":
    root, target, *overrides = sys.argv[1:]
    session = build_session(load_settings("conf/cluster.yaml", overrides), "dump")
    Path(target).write_text(json.dumps(read_state(session, root)), encoding="utf-8")
