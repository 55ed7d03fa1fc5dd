#!/usr/bin/env bash
# Guess: opencode's ids (`ses_…`, `msg_…`, `prt_…`) all begin with a time and sort by it, the
# oldest first; "everything with an id above the last one seen" finds what is new.
# Found: in opencode 1.18.33 message and part ids do, session ids sort the other way round:
# every new session has a smaller id than all before it. (2026-11-27)
# It matters to a reader that pages through sessions by id, or remembers the highest: it sees
# the sessions of its first visit and never a newer one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" opencode-ai@1.18.33 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
mkdir -p "$work/project" "$work/.config/opencode"
cat >"$work/.config/opencode/opencode.json" <<JSON
{"model": "s/scripted", "autoupdate": false, "permission": "allow",
 "provider": {"s": {"npm": "@ai-sdk/openai-compatible", "models": {"scripted": {}},
                    "options": {"baseURL": "$base/v1", "apiKey": "k"}}}}
JSON

cd "$work/project"
for number in one two three; do run opencode run "question $number"; done

python3 - "$work/.local/share/opencode/opencode.db" <<'PY'
import sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
def ids(table):
    return [row[0] for row in database.execute(f"SELECT id FROM {table} ORDER BY time_created, rowid")]
sessions, messages = ids("session"), ids("message")
print("sessions as they were made:", *sessions, sep="\n  ")
print("messages as they were made:", *messages, sep="\n  ")
if len(sessions) != 3 or len(messages) != 6:
    sys.exit("changed: not three sessions of two messages")
if messages != sorted(messages):
    sys.exit("changed: message ids no longer ascend")
if sessions != sorted(sessions, reverse=True):
    sys.exit("changed: session ids no longer descend")
PY
echo "as found: session ids descend, message ids ascend"
