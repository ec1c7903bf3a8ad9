#!/usr/bin/env bash
# Makes .venv-cluster, what the tests on a cluster need beside .venv: an S3-compatible server
# (moto) in an environment of its own, and the jars of S3A and of Hadoop's mini cluster, checked.
# usage: scripts/setup/cluster.sh [PYTHON-WITH-PYSPARK]
set -euo pipefail
# shellcheck source=scripts/setup/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/setup/system.sh
source "$SETUP_DIR/system.sh"

VENV="$ROOT/.venv-cluster"
SPARK_PYTHON="${1:-$ROOT/.venv/bin/python}"
STAMP=$(stamp_of requirements-cluster.lock scripts/cluster/jars.{txt,sha256} \
    scripts/setup/{common,system,environment,cluster}.sh scripts/setup/fetch_jars.py)
is_fresh "$VENV" "$STAMP" && exit 0
take_turn

# shellcheck source=scripts/setup/environment.sh
source "$SETUP_DIR/environment.sh"

# About 60 MB: the modules of the AWS SDK that S3A loads, not its bundle, which has ten times that.
fetch_cluster_jars() { # FOLDER
    local folder=$1 unfinished="$1.$$" log="$TOOLS/cluster-jars.log"
    mkdir -p "$unfinished"
    say "fetching the jars of S3A and Hadoop's mini cluster (once)"
    # shellcheck disable=SC2046 # one word a line
    if ! "$SPARK_PYTHON" "$SETUP_DIR/fetch_jars.py" "$unfinished" \
        $(grep -v '^#' scripts/cluster/jars.txt) >"$log" 2>&1; then
        rm -rf "$unfinished"
        grep -iE 'unresolved|not found|refused|timed out|exception' "$log" | cut -c1-200 | head -8 >&2 || true
        fail "the jars of scripts/cluster/jars.txt could not be fetched" \
            "Spark's Ivy said why above; all of it: $log" "check the network and run this again"
    fi
    mv "$unfinished" "$folder"
}

check_jars() { # FOLDER
    (cd "$1" && sha256sum --quiet --check "$ROOT/scripts/cluster/jars.sha256") ||
        fail "a jar is not the one that was tested" "its SHA-256 is not in scripts/cluster/jars.sha256" \
            "remove $1 and run this again"
}

require_system java python
make_environment "$VENV" requirements-cluster.lock
JARS="$CACHE/jars/cluster-$(sha256sum scripts/cluster/jars.txt | cut -c1-16)"
[[ -d $JARS ]] || fetch_cluster_jars "$JARS"
check_jars "$JARS"
mkdir -p "$VENV/share"
ln -sfn "$JARS" "$VENV/share/jars"
mark_fresh "$VENV" "$STAMP"
say "ready: .venv-cluster"
