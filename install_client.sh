#!/bin/sh
# Set this machine up as a client of a fedmem server, or take that back.
#
#   sh install_client.sh --invite CODE --url URL --machine NAME
#   sh install_client.sh AI_TOKEN --sync-token SYNC_TOKEN --url URL --machine NAME
#   sh install_client.sh --uninstall
#
# It finds a Python of 3.10 or newer and fedmem.py (beside this script, else from the
# server, GET URL/fedmem.py), and hands over to `fedmem.py install`, which does the rest:
# every option of that command may be given here. Nothing is run as root.
set -eu
umask 077

say() { printf '%s\n' "$*"; }
die() { printf 'install_client.sh: %s\n' "$*" >&2; exit 1; }

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0"
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "no Python 3.10 or newer was found; install one and run this again."
}

# The value of an option among the arguments, empty without it.
option() {
    wanted=$1
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            "$wanted") [ $# -gt 1 ] && printf '%s' "$2"; return 0 ;;
            "$wanted"=*) printf '%s' "${1#*=}"; return 0 ;;
        esac
        shift
    done
}

main() {
    case ${1:-} in
        '' | -h | --help) usage; [ -n "${1:-}" ] && exit 0; exit 2 ;;
    esac
    python=$(find_python)
    here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
    program=$here/fedmem.py
    if [ ! -f "$program" ]; then
        url=$(option --url "$@")
        pin=$(option --pin "$@")
        [ -n "$url" ] || die "fedmem.py is not beside this script, and there is no --url."
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        program=$folder/fedmem.py
        say "fetching fedmem.py from $url"
        if [ -n "$pin" ]; then
            curl -fsSk --pinnedpubkey "$pin" "${url%/mcp}/fedmem.py" -o "$program"
        else
            curl -fsS "${url%/mcp}/fedmem.py" -o "$program"
        fi || die "fedmem.py could not be fetched from $url."
    fi
    "$python" "$program" install "$@"
}

main "$@"
