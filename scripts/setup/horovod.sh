# shellcheck shell=bash
# Horovod comes as source only and its binary fits one torch: build it once for each
# combination of versions and settings, and keep the wheel in the user's cache.

HOROVOD_LOG="$TOOLS/horovod-build.log"

# Our choices, unless the user made others: torch over Gloo, no MPI.
build_settings() {
    horovod_settings
    echo HOROVOD_WITH_PYTORCH=1
    echo HOROVOD_WITH_GLOO=1
    echo HOROVOD_WITHOUT_TENSORFLOW=1
    echo HOROVOD_WITHOUT_MXNET=1
    [[ -n ${HOROVOD_WITH_MPI:-} ]] || echo HOROVOD_WITHOUT_MPI=1
}

locked_version() { sed -nE "s/^$1==([^ ;]+).*/\1/p" requirements.lock; }

# Everything that changes the binary, one a line.
build_key() { # VENV
    echo "horovod $(locked_version horovod)"
    "$1/bin/python" -c 'from importlib.metadata import version; print("torch", version("torch"))'
    "$1/bin/python" -c 'import sys, platform; print(sys.version, platform.machine())'
    "${CXX:-g++}" --version | head -1
    cat "$SETUP_DIR/cxx20"
    build_settings
}

install_horovod() { # VENV
    local venv=$1 key folder
    key=$(build_key "$venv")
    folder="$CACHE/horovod/$(locked_version horovod)-torch$(locked_version torch)-$(sha256sum <<<"$key" | cut -c1-12)"
    compgen -G "$folder/*.whl" >/dev/null || build_horovod "$venv" "$folder" "$key"
    "$UV" pip install --quiet --python "$venv/bin/python" --no-deps --reinstall-package horovod "$folder"/*.whl
}

build_horovod() { # VENV FOLDER KEY
    local venv=$1 folder=$2 started=$SECONDS settings
    local unfinished="$folder.$$"
    mapfile -t settings < <(build_settings)
    mkdir -p "$unfinished"
    echo "$3" >"$unfinished/key.txt"
    say "building Horovod $(locked_version horovod) (2-5 min, once); output in ${HOROVOD_LOG#"$ROOT"/}"
    # pip's and uv's own wheel caches do not know torch's version, so neither may be used.
    if ! env PATH="$venv/bin:$PATH" CXX="$SETUP_DIR/cxx20" RECSYS_CXX="${CXX:-g++}" \
        MAKEFLAGS="-j$(nproc)" "${settings[@]}" \
        "$venv/bin/python" -m pip wheel --verbose --no-cache-dir --no-deps --no-build-isolation \
        --no-binary horovod --wheel-dir "$unfinished" "horovod==$(locked_version horovod)" \
        >"$HOROVOD_LOG" 2>&1 </dev/null; then
        rm -rf "$unfinished"
        grep -nE 'error:|Error ' "$HOROVOD_LOG" | cut -c1-300 | head -5 >&2 || true
        tail -n 15 "$HOROVOD_LOG" | cut -c1-300 >&2
        fail "Horovod could not be built" "see above; the whole output is $HOROVOD_LOG" \
            "mend what it names (compiler, memory, network), then run this again"
    fi
    rm -rf "$folder"
    mv "$unfinished" "$folder"
    say "built Horovod in $((SECONDS - started)) s; kept in $folder"
}
