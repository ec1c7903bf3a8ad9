#!/usr/bin/env bash
# Writes the lock files anew from setup.py and requirements-*.in.
# Versions already locked stay as they are; with --upgrade they move.
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"
# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"
require_system python
find_uv

# No index, no local path: the files must read the same on every machine.
lock() { # LOCK ARGUMENT...
    local file=$1
    shift
    "$UV" pip compile --quiet --python-version 3.11 --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" --output-file "$file" "$@"
    say "wrote $file ($(grep -c '==' "$file") packages)"
}

lock requirements.lock setup.py --extra horovod --extra export --extra notebooks --extra dev "$@"
lock requirements-airflow.lock requirements-airflow.in "$@"
lock requirements-cluster.lock requirements-cluster.in "$@"
lock requirements-peers.lock requirements-peers.in "$@"
