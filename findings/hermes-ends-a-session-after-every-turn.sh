#!/usr/bin/env bash
# Guess: the hook on_session_end runs once, when the session ends, and on_session_start whenever
# one is begun or taken up again.
# Found: Hermes 0.19.0 runs on_session_end after every turn, with the id of the session, which
# goes on; at the end it is on_session_finalize. When a session is taken up again, both run for
# it, but not on_session_start: that has run once, before. (2026-11-28)
# It matters to a memory that archives and closes a session at its end: it does so after the
# first answer, in the middle of a conversation, and holds the rest for a mistake; and what it
# hands over at a start is missing in every conversation that was taken up again.
# Needs Python 3.11, 3.12 or 3.13.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip hermes-agent==0.19.0
start_server <<<'{}'
export HERMES_ACCEPT_HOOKS=1
cat >"$TMP/hook" <<'SH'
#!/bin/sh
{ cat; echo; } >>"$0.log"
SH
chmod +x "$TMP/hook"
set_up_hermes "hooks:
  on_session_start: [{command: $TMP/hook}]
  on_session_end: [{command: $TMP/hook}]
  on_session_finalize: [{command: $TMP/hook}]"

# One conversation of three questions, each asked when the hook of the one before has run; then
# it is taken up again.
cat >"$TMP/ask.py" <<'PY'
import os, sys
from scripted_terminal import Terminal
def ends():
    return os.path.exists(sys.argv[1]) and open(sys.argv[1]).read().count('"on_session_end"')
with Terminal("hermes", "chat") as terminal:
    terminal.wait(lambda: "❯" in terminal.shown)
    for number in (1, 2, 3):
        terminal.press(f"question {number}", "\r")
        terminal.wait(lambda: ends() >= number, 30)
    terminal.press("/quit", "\r")
PY
PYTHONPATH=$HERE run python3 "$TMP/ask.py" "$TMP/hook.log"
run hermes chat -c -Q -q "question 4"

python3 - "$TMP" <<'PY'
import json, sqlite3, sys
events = [[]]
for line in open(f"{sys.argv[1]}/hook.log"):
    if line.strip():
        hook = json.loads(line)
        events[-1].append((hook["hook_event_name"], hook["session_id"]))
        if hook["hook_event_name"] == "on_session_finalize":
            events.append([])
for name, process in zip(("three questions:", "taken up again:"), events):
    print(name, ", ".join(event for event, _ in process))
sessions = {session for process in events for _, session in process}
database = sqlite3.connect(f"file:{sys.argv[1]}/.hermes/state.db?mode=ro", uri=True)
asked = database.execute("""SELECT session_id, count(*) FROM messages
                            WHERE role = 'user' GROUP BY 1""").fetchall()
print("sessions in the store and their questions:", [count for _, count in asked])
names = [[event for event, _ in process] for process in events]
first = ["on_session_start", *["on_session_end"] * 3, "on_session_finalize"]
if names != [first, ["on_session_end", "on_session_finalize"], []]:
    sys.exit("changed: when a session starts and ends")
if len(sessions) != 1 or asked != [(*sessions, 4)]:
    sys.exit("changed: it is no longer one session")
PY
echo "as found: one session of four questions started once and ended four times"
