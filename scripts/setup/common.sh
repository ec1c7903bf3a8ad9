# shellcheck shell=bash
# What every set-up script shares: where things are, how to talk, what is up to date.

SETUP_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$SETUP_DIR/../.." && pwd)
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/recsys" # shared by all clones of this user
TOOLS="$ROOT/.tools"                           # what only the set-up itself needs
cd "$ROOT" || exit

say() { echo "setup: $*"; }

# fail WHAT WHERE-OR-WHY WHAT-TO-DO
fail() {
    printf 'setup failed: %s\n      reason: %s\n          do: %s\n' "$1" "$2" "$3" >&2
    exit 1
}

# The stamp names the folder too: a virtual environment cannot be moved.
stamp_of() { echo "$ROOT $(cat "$@" | sha256sum | cut -c1-16)"; }
is_fresh() { [[ -f $1/.setup-stamp && $(<"$1/.setup-stamp") == "$2" ]]; }
mark_fresh() { echo "$2" >"$1/.setup-stamp"; }

# Two set-ups of one clone at once would delete each other's files.
take_turn() {
    mkdir -p "$TOOLS"
    exec 9>"$TOOLS/setup.turn"
    flock -n 9 || { say "waiting for another set-up of this folder"; flock 9; }
}

# What a user may set to build Horovod otherwise, e.g. HOROVOD_GPU_OPERATIONS=NCCL on a GPU cluster.
horovod_settings() { env | grep -E '^HOROVOD_(GPU|CPU|NCCL|CUDA|ROCM|BUILD|WITH|CMAKE)' | sort || true; }
