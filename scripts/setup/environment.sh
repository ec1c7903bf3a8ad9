# shellcheck shell=bash
# Virtual environments from lock files, with uv.

UV_VERSION=0.13.9

# The uv on PATH if it is new enough, else one of our own in .tools.
find_uv() {
    if command -v uv >/dev/null && uv_fits "$(uv --version | cut -d' ' -f2)"; then
        UV=$(command -v uv)
        return
    fi
    UV="$TOOLS/bin/uv"
    [[ -x $UV && $("$UV" --version) == "uv $UV_VERSION"* ]] && return
    say "getting uv $UV_VERSION into .tools"
    "$PYTHON" -m venv "$TOOLS"
    "$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
        fail "uv $UV_VERSION could not be installed" "pip said why above" \
            "check the network and pip's settings, or put uv >= $UV_VERSION on PATH"
}

uv_fits() { [[ $(printf '%s\n' "$UV_VERSION" "$1" | sort -V | head -1) == "$UV_VERSION" ]]; }

make_environment() { # VENV LOCK [PACKAGE-LEFT-OUT]
    local venv=$1 lock=$2 left_out=${3:-}
    find_uv
    if ! is_python_311 "$venv/bin/python" || [[ $(<"$venv/bin/activate") != *"$venv"* ]]; then
        say "creating ${venv#"$ROOT"/} with $PYTHON"
        "$UV" venv --quiet --clear --python "$PYTHON" "$venv"
    fi
    say "installing $lock into ${venv#"$ROOT"/}"
    grep -v "^${left_out:-#}==" "$lock" >"$venv/wanted.txt"
    # Compiled now: every process that starts without bytecode would compile torch again.
    "$UV" pip sync --quiet --compile-bytecode --python "$venv/bin/python" "$venv/wanted.txt" ||
        fail "$lock could not be installed" "uv said why above" \
            "check the network, the free disk space (.venv takes 6 GB) and, behind a proxy, SSL_CERT_FILE"
}

install_recsys() { # VENV
    # No isolation: the environment has the pinned setuptools, so nothing is fetched for the build.
    "$UV" pip install --quiet --python "$1/bin/python" --no-build-isolation --no-deps --editable . ||
        fail "recsys itself could not be installed" "uv said why above" "look at setup.py"
}

check_imports() { # VENV
    "$1/bin/python" -W ignore -c 'import delta, horovod.torch, mlflow, petastorm, pyspark, torch' ||
        fail "the environment was made but does not work" "the import that failed is above" \
            "remove it with 'make clean-all' and run 'make setup' again"
}
