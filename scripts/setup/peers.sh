#!/usr/bin/env bash
# Makes .venv-peers: what benchmarks run beside the project, whose dependencies may exclude ours.
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

VENV="$ROOT/.venv-peers"
STAMP=$(stamp_of requirements-peers.lock scripts/setup/{common,system,environment,peers}.sh)
is_fresh "$VENV" "$STAMP" && exit 0
take_turn

# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"
require_system python
make_environment "$VENV" requirements-peers.lock
mark_fresh "$VENV" "$STAMP"
say "ready: .venv-peers"
