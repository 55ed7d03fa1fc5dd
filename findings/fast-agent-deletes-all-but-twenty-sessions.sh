#!/usr/bin/env bash
# Guess: an agent that stores conversations keeps them until the user deletes them.
# Found: fast-agent 0.10.48 keeps the newest 20 of a project and removes older ones, folder and
# all, when a new one is made; nothing is said. (2026-11-27)
# It matters to an archive that looks once a day: who starts 21 conversations between two looks
# loses one for good, and "gone from the disk" must not mean "delete it from the archive".
# Needs Python 3.13 (PYTHON=… names one that is not python3.13).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 120 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

"${PYTHON:-python3.13}" -m venv "$work/venv"
"$work/venv/bin/pip" install -qq fast-agent-mcp==0.10.48
export HOME=$work PATH=$work/venv/bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
mkdir "$work/project"
cat >"$work/project/fast-agent.yaml" <<YAML
default_model: generic.scripted
generic: {api_key: k, base_url: "$base/v1"}
YAML

cd "$work/project"
for number in $(seq 101 122); do run fast-agent go -m "question $number"; done
grep -ohE "question [0-9]{3}" -r .fast-agent/sessions | sort -u >"$work/kept"
echo "asked: 101 to 122; kept: $(wc -l <"$work/kept"), first $(head -n 1 "$work/kept"), last $(tail -n 1 "$work/kept")"
if grep -qi "remov\|delet\|prun" "$work/log"; then echo "changed: it says so now"; exit 1; fi
if [ "$(cat "$work/kept")" != "$(seq -f 'question %.0f' 103 122)" ]; then
    echo "changed: not the newest twenty are kept"
    exit 1
fi
echo "as found: the two oldest of 22 are gone"
