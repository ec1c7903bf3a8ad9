#!/usr/bin/env bash
# Makes .venv-NAME from requirements-NAME.lock: an environment beside the project's, for what shares
# no code with it and whose dependencies may exclude ours. `airflow`: its DAGs import nothing of
# recsys. `peers`: what benchmarks run beside the project.
# usage: scripts/setup/side.sh NAME
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

NAME=$1
VENV="$ROOT/.venv-$NAME"
STAMP=$(stamp_of "requirements-$NAME.lock" scripts/setup/{common,system,environment,side}.sh)
is_fresh "$VENV" "$STAMP" && exit 0
take_turn

# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"
require_system python
make_environment "$VENV" "requirements-$NAME.lock"
mark_fresh "$VENV" "$STAMP"
say "ready: .venv-$NAME"
