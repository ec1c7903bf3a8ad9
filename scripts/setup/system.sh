# shellcheck shell=bash
# What must come from the operating system: Java, a C++ compiler, Python 3.11; for tests Redis and
# PostgreSQL.

require_system() { # any of: java compiler python redis postgres
    local need missing
    mapfile -t missing < <(for need in "$@"; do "debian_packages_for_$need"; done)
    ((${#missing[@]} == 0)) || install_debian_packages "${missing[@]}"
    for need in "$@"; do "check_$need"; done
}

# Installs them where that needs no password; otherwise prints the line to type.
install_debian_packages() { # PACKAGE...
    local as_root=(env DEBIAN_FRONTEND=noninteractive)
    ((EUID == 0)) || as_root=(sudo -n "${as_root[@]}")
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        say "installing what this machine lacks: $*"
        "${as_root[@]}" apt-get -qq update &&
            "${as_root[@]}" apt-get -qq install -y --no-install-recommends "$@" >/dev/null && return
    fi
    fail "this machine lacks $*" "installing needs root's rights and a reachable Debian mirror" \
        "type 'sudo apt-get update && sudo apt-get install -y $*', then run this again"
}

# Java: the one that Spark will take.
java_command() { echo "${JAVA_HOME:+$JAVA_HOME/bin/}java"; }
java_major() { "$(java_command)" -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p'; }
java_fits() { [[ $(java_major) =~ ^(17|21)$ ]]; }
debian_packages_for_java() { java_fits || [[ -n ${JAVA_HOME:-} ]] || echo openjdk-17-jre-headless; }
check_java() {
    java_fits || fail "Spark 4.0 needs Java 17 or 21" \
        "'$(java_command)' is version '$(java_major)' (empty: it does not start)" \
        "set JAVA_HOME to the folder of a Java 17, e.g. one of: $(echo /usr/lib/jvm/*17*)"
}

debian_packages_for_compiler() {
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
}
check_compiler() { :; } # a package that was installed is on PATH

# A python3.11 on PATH is not enough: pyenv's shims exist for versions that are not switched on,
# and Debian packs the C headers (for Horovod's build) and ensurepip (for uv) apart.
is_python_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if [[ -n $candidate ]] && is_python_311 "$candidate"; then
            PYTHON=$("$candidate" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    return 1
}
has_headers() { [[ -f $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]]; }
debian_packages_for_python() {
    find_python || { printf '%s\n' python3.11{,-dev,-venv} && return; }
    has_headers || echo python3.11-dev
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || echo python3.11-venv
}
check_python() {
    find_python || fail "Python 3.11 is missing" "there is no python3.11 on PATH ($PATH)" \
        "install it, or name it: PYTHON=/path/to/python3.11 make setup"
    has_headers || fail "Python.h is missing" "$PYTHON has no C headers, Horovod cannot be built" \
        "install the headers of this Python, or name another: PYTHON=/path/to/python3.11 make setup"
}

# Servers that tests start themselves; Debian keeps PostgreSQL's own programs off PATH.
debian_packages_for_redis() { command -v redis-server >/dev/null || echo redis-server; }
check_redis() { :; }
has_postgres() { command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }
debian_packages_for_postgres() { has_postgres || echo postgresql; }
check_postgres() { :; }
