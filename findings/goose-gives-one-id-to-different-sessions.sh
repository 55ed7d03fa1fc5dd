#!/usr/bin/env bash
# Guess: a session's id is its own: no other session has it, on no other machine, and not after
# it was removed.
# Found: goose 1.52.0 counts the sessions of a day: the first is 20261128_1, on every machine.
# A new session gets the number after the highest one there is: remove the newest, and the
# next conversation has its id. (2026-11-28)
# It matters to an archive that knows sessions by id: that of a second machine, or one begun
# after a removal, is taken for one it has, and is added to it, or kept out as already there.
# The first row's `message_id` has a UUID and tells them apart.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
export TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1
export GOOSE_PROVIDER=openai GOOSE_MODEL=scripted GOOSE_MODE=auto
goose=$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose

# list MACHINE: id, first question and its message_id of each session.
list() {
    python3 - "$work/$1/.local/share/goose/sessions/sessions.db" <<'PY'
import json, sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
for session, message, content in database.execute(
        "SELECT session_id, message_id, content_json FROM messages GROUP BY session_id HAVING id = min(id)"):
    print(session, json.loads(content)[0]["text"].replace(" ", "-"), message)
PY
}
ask() {  # ask MACHINE QUESTION
    mkdir -p "$work/$1/project"
    cd "$work/$1/project"
    HOME=$work/$1 run "$goose" run -t "$2"
}

ask laptop "asked on the laptop"
ask desktop "asked on the desktop"
list laptop >"$work/first"
list desktop >"$work/second"
session=$(cut -d ' ' -f 1 "$work/second")
HOME=$work/desktop PYTHONPATH=$here run python3 -c '
import sys
from scripted_terminal import Terminal
with Terminal(*sys.argv[1:]) as terminal:
    terminal.wait(lambda: "Are you sure" in terminal.shown)
    terminal.press("y")' "$goose" session remove --session-id "$session"
[ -z "$(list desktop)" ] || { echo "changed: how a session is removed"; exit 1; }
ask desktop "asked after the removal"
list desktop >"$work/third"

cat "$work/first" "$work/second" "$work/third"
ids=$(cut -d ' ' -f 1 "$work/first" "$work/second" "$work/third" | sort -u | wc -l)
messages=$(cut -d ' ' -f 3 "$work/first" "$work/second" "$work/third" | sort -u | wc -l)
if [ "$ids" != 1 ] || [ "$messages" != 3 ]; then
    echo "changed: three conversations have $ids ids, their first messages $messages"
    exit 1
fi
echo "as found: three conversations, one id"
