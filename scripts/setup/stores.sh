#!/usr/bin/env bash
# Sees to it that Redis and PostgreSQL are there, which the tests of exports start and end
# themselves, on ports and in folders of their own.
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

require_system redis postgres
