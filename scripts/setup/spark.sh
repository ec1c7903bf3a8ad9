# shellcheck shell=bash
# Makes the pip-installed Spark complete: Delta's jars inside it, the environment's own Python for
# its workers, whichever python3 comes first on PATH, and an archive of its classes, loaded.

set_up_spark() { # VENV
    local venv=$1 spark
    spark=$("$venv/bin/python" -c 'import pyspark; print(pyspark.__path__[0])')
    add_delta_jars "$venv" "$spark/jars"
    write_find_spark_home "$venv/bin"
}

# In pyspark's jars folder they are found by plain sessions and spark-submit, without any network.
add_delta_jars() { # VENV JARS-FOLDER
    local venv=$1 jars=$2 version kept jar
    version=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("delta-spark"))')
    kept="$CACHE/jars/delta-$version"
    [[ -d $kept ]] || fetch_delta_jars "$venv" "$version" "$kept"
    rm -f "$jars"/delta-{spark,storage}*.jar # an older version's
    for jar in "$kept"/*.jar; do
        # Spark brings some of them itself; its files are uv's too (hard links): never overwrite.
        [[ -e $jars/${jar##*/} ]] || cp "$jar" "$jars/"
    done
}

fetch_delta_jars() { # VENV VERSION FOLDER
    local unfinished="$3.$$" log="$TOOLS/delta-jars.log"
    mkdir -p "$unfinished"
    say "fetching the jars of Delta $2 (once)"
    if ! "$1/bin/python" "$SETUP_DIR/fetch_jars.py" "$unfinished" "io.delta:delta-spark_2.13:$2" >"$log" 2>&1; then
        rm -rf "$unfinished"
        grep -iE 'unresolved|not found|refused|timed out|exception' "$log" | cut -c1-200 | head -8 >&2 || true
        fail "the jars of Delta $2 could not be fetched" "Spark's Ivy said why above; all of it: $log" \
            "check the network, or put delta-spark_2.13, delta-storage and antlr4-runtime into $3"
    fi
    mv "$unfinished" "$3"
}

# spark-submit sources this file. Spark's own asks python3 on PATH where pyspark is, and then
# runs everything with that python3: it would work only in an activated environment.
write_find_spark_home() { # BIN-FOLDER
    local script="$1/find-spark-home"
    rm -f "$script" # it may be a hard link into uv's cache
    cat >"$script" <<'END'
#!/usr/bin/env bash
# Written by scripts/setup/spark.sh: the pyspark and the Python of the environment it lies in.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SPARK_HOME="${SPARK_HOME:-$here/../lib/python3.11/site-packages/pyspark}"
export PYSPARK_PYTHON="${PYSPARK_PYTHON:-$here/python}"
archive="$here/../share/recsys/classes.jsa" # scripts/setup/spark.sh made it
[[ ! -f $archive ]] ||
    export SPARK_SUBMIT_OPTS="-XX:SharedArchiveFile=$archive -Xlog:cds*=off ${SPARK_SUBMIT_OPTS:-}"
END
    chmod +x "$script"
}

# Loading Spark's classes is a third of the time until a session has read its first table. Java
# keeps them, loaded and checked, in a file (application class-data sharing); a small night says
# which ones, and shows that the environment works.
archive_classes() { # VENV
    local archive="$1/share/recsys/classes.jsa" folder log="$TOOLS/classes.log" failed=0
    say "running a small night, so that Java keeps Spark's classes (a minute)"
    rm -f "$archive" "$archive.new"
    mkdir -p "${archive%/*}"
    folder=$(mktemp -d)
    "$1/bin/python" "$SETUP_DIR/archive_classes.py" "$archive.new" "$folder" \
        >"$log" 2>&1 </dev/null || failed=1
    rm -rf "$folder"
    if ((failed)); then
        grep -v '\[warning\]\[cds\]' "$log" | tail -n 15 | cut -c1-300 >&2
        fail "the environment was made, but a small night fails in it" "see above; all of it: $log" \
            "mend what it names, then run this again"
    elif [[ -f $archive.new ]]; then
        mv "$archive.new" "$archive"
    else
        say "this Java makes no archive of classes; sessions start 5 s slower without it"
    fi
}
