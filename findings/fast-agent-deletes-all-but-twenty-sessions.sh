#!/usr/bin/env bash
# Guess: an agent that stores conversations keeps them until the user deletes them.
# Found: fast-agent 0.10.48 keeps the newest 20 of a project and removes older ones, folder and
# all, when a new one is made; nothing is said. (2026-11-27)
# It matters to an archive that looks once a day: who starts 21 conversations between two looks
# loses one for good, and "gone from the disk" must not mean "delete it from the archive".
# Needs Python 3.13 (PYTHON=… names one that is not python3.13).
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

PYTHON=${PYTHON:-python3.13}
install_pip fast-agent-mcp==0.10.48
start_server <<<'{}'
cat >fast-agent.yaml <<YAML
default_model: generic.scripted
generic: {api_key: k, base_url: "$BASE/v1"}
YAML

for number in $(seq 101 122); do run fast-agent go -m "question $number"; done
grep -ohE "question [0-9]{3}" -r .fast-agent/sessions | sort -u >"$TMP/kept"
echo "asked: 101 to 122; kept: $(wc -l <"$TMP/kept"), first $(head -n 1 "$TMP/kept"), last $(tail -n 1 "$TMP/kept")"
if grep -qi "remov\|delet\|prun" "$TMP/log"; then echo "changed: it says so now"; exit 1; fi
if [ "$(cat "$TMP/kept")" != "$(seq -f 'question %.0f' 103 122)" ]; then
    echo "changed: not the newest twenty are kept"
    exit 1
fi
echo "as found: the two oldest of 22 are gone"
