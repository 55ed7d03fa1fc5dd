#!/usr/bin/env bash
# Guess: opencode's ids (`ses_…`, `msg_…`, `prt_…`) all begin with a time and sort by it, the
# oldest first; "everything with an id above the last one seen" finds what is new.
# Found: in opencode 1.18.33 message and part ids do, session ids sort the other way round:
# every new session has a smaller id than all before it. (2026-11-27)
# It matters to a reader that pages through sessions by id, or remembers the highest: it sees
# the sessions of its first visit and never a newer one.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm opencode-ai@1.18.33
start_server <<<'{}'
set_up_opencode

for number in one two three; do run opencode run "question $number"; done

python3 - "$TMP/.local/share/opencode/opencode.db" <<'PY'
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
