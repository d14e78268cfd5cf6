# Shared by the scripts of this folder: how they speak, fail, become root and run a slow step.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

# Administration commands are not in every user's PATH, and an activated .venv must not be the Python that rebuilds itself.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
PATH=:$PATH:
PATH=${PATH//:$VENV\/bin:/:}
PATH=${PATH#:}
PATH=${PATH%:}
export PATH
# make hands its command line down in these, KEY=… included; what runs from here (a router for months) has no use for it.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES PYTHONHOME PYTHONPATH

say() { printf 'meshd: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# try_step TEXT COMMAND…: runs a slow step with its output in a log; after a failure $failure says what failed and where the log is.
try_step() {
    local text=$1 log why
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/meshd-setup.XXXXXX")
    say "$text …"
    if "$@" </dev/null >"$log" 2>&1; then
        rm -f -- "$log"
        return
    fi
    why=$(grep -iE '^(e:|error)' "$log" | tail -n 1) || why=$(tail -n 1 "$log")
    failure="$text: failed (${why:-no output}); the whole output is in $log"
    return 1
}

step() { try_step "$@" || die "$failure"; }

# become_root NAMES COMMAND…: replaces this process by COMMAND as root; of the environment sudo keeps NAMES (comma-separated).
become_root() {
    local names=$1
    shift
    if [[ $(id -u) == 0 ]]; then
        exec "$@"
    fi
    have sudo || die "this needs root, and there is no sudo here: run the same make command as root"
    exec sudo ${names:+--preserve-env="$names"} -- "$@"
}

# as_root NAMES COMMAND…: the same in a child process.
as_root() { (become_root "$@"); }

# Prints the path of the first Python that is new enough and can make virtual environments: the system's own first, which is built
# for speed and does not go away with a developer's version manager (Debian's can make environments only with
# python3-venv).
find_python() {
    local name
    for name in /usr/bin/python3 python3 python3.11 python3.12 python3.13 python3.14; do
        if "$name" -Ic 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}
