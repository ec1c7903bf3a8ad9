#!/usr/bin/env bash
# Makes .venv-airflow: Airflow's dependencies exclude ours, and its DAGs import nothing of recsys.
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

VENV="$ROOT/.venv-airflow"
STAMP=$(stamp_of requirements-airflow.lock scripts/setup/{common,system,environment,airflow}.sh)
is_fresh "$VENV" "$STAMP" && exit 0
take_turn

# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"
require_system python
make_environment "$VENV" requirements-airflow.lock
mark_fresh "$VENV" "$STAMP"
say "ready: .venv-airflow"
