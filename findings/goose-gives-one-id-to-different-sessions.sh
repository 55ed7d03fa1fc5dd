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
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm @aaif/goose-binary-linux-x64@1.52.0
start_server <<<'{}'
set_up_goose

# list MACHINE: id, first question and its message_id of each session.
list() {
    python3 - "$TMP/$1/.local/share/goose/sessions/sessions.db" <<'PY'
import json, sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
for session, message, content in database.execute(
        "SELECT session_id, message_id, content_json FROM messages GROUP BY session_id HAVING id = min(id)"):
    print(session, json.loads(content)[0]["text"].replace(" ", "-"), message)
PY
}
ask() {  # ask MACHINE QUESTION
    mkdir -p "$TMP/$1/project"
    cd "$TMP/$1/project"
    HOME=$TMP/$1 run goose run -t "$2"
}

ask laptop "asked on the laptop"
ask desktop "asked on the desktop"
list laptop >"$TMP/first"
list desktop >"$TMP/second"
session=$(cut -d ' ' -f 1 "$TMP/second")
HOME=$TMP/desktop PYTHONPATH=$HERE run python3 -c '
import sys
from scripted_terminal import Terminal
with Terminal(*sys.argv[1:]) as terminal:
    terminal.wait(lambda: "Are you sure" in terminal.shown)
    terminal.press("y")' goose session remove --session-id "$session"
[ -z "$(list desktop)" ] || { echo "changed: how a session is removed"; exit 1; }
ask desktop "asked after the removal"
list desktop >"$TMP/third"

cat "$TMP/first" "$TMP/second" "$TMP/third"
ids=$(cut -d ' ' -f 1 "$TMP/first" "$TMP/second" "$TMP/third" | sort -u | wc -l)
messages=$(cut -d ' ' -f 3 "$TMP/first" "$TMP/second" "$TMP/third" | sort -u | wc -l)
if [ "$ids" != 1 ] || [ "$messages" != 3 ]; then
    echo "changed: three conversations have $ids ids, their first messages $messages"
    exit 1
fi
echo "as found: three conversations, one id"
