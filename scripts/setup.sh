#!/usr/bin/env bash
# Makes .venv, the environment of everything but Airflow. Safe to run again:
# while the lock and these scripts are unchanged it does nothing.
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

VENV="$ROOT/.venv"
STAMP=$(stamp_of requirements.lock setup.py pyproject.toml scripts/setup.sh \
    scripts/setup/{common,system,environment,horovod,spark}.sh \
    scripts/setup/{cxx20,fetch_jars.py,archive_classes.py})
STAMP+=" $(horovod_settings | tr '\n' ' ')"
is_fresh "$VENV" "$STAMP" && exit 0
take_turn
is_fresh "$VENV" "$STAMP" && exit 0 # somebody else made it while we waited

# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"
# shellcheck source=scripts/setup/horovod.sh
source "$SETUP_DIR/horovod.sh"
# shellcheck source=scripts/setup/spark.sh
source "$SETUP_DIR/spark.sh"

require_system java compiler python
make_environment "$VENV" requirements.lock horovod # all but horovod, which needs torch first
install_horovod "$VENV"
set_up_spark "$VENV"
install_recsys "$VENV"
check_imports "$VENV"
archive_classes "$VENV"
mark_fresh "$VENV" "$STAMP"
say "ready: .venv (try 'make run')"
