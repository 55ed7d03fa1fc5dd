#!/usr/bin/env bash
# Guess: `/compress` adds a summary to a conversation; what was said before stays as it is, or is
# marked as no longer sent.
# Found: Hermes 0.19.0 marks all rows of the session in state.db as inactive and enters those it
# keeps once more, the first questions and the last: new ids, and as their time that of the
# compression. Nothing in a new row refers to the old one. What lies between becomes a summary,
# role assistant. (2026-11-28)
# It matters to an archive that takes the rows after the last id it has seen: it files one question
# twice, the second time under a time when nobody asked it; one that takes the active rows
# only loses what was said in the middle, and every true time.
# Needs Python 3.11, 3.12 or 3.13.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip hermes-agent==0.19.0
start_server <<<'{}'
set_up_hermes

cat >"$TMP/ask.py" <<'PY'
import sqlite3, sys
from scripted_terminal import Terminal
def count(condition):
    try:
        database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
        return database.execute(f"SELECT count(*) FROM messages WHERE {condition}").fetchone()[0]
    except sqlite3.OperationalError:
        return 0  # not yet there
with Terminal("hermes", "chat") as terminal:
    terminal.wait(lambda: "❯" in terminal.shown)
    for number in (1, 2, 3, 4):
        terminal.press(f"question {number}", "\r")
        terminal.wait(lambda: count("role = 'assistant'") >= number)
    terminal.press("/compress", "\r")
    terminal.wait(lambda: count("compacted = 1"))
    terminal.press("question 5", "\r")
    terminal.wait(lambda: count("content = 'question 5'"))
    terminal.press("/quit", "\r")
PY
PYTHONPATH=$HERE run python3 "$TMP/ask.py" "$TMP/.hermes/state.db"

python3 - "$TMP/.hermes/state.db" <<'PY'
import sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
rows = database.execute("""SELECT id, session_id, role, content, timestamp, active
                           FROM messages ORDER BY id""").fetchall()
for row, _, role, content, time, active in rows:
    print(row, role, repr(content[:26]), f"{time - rows[0][4]:.0f} s", "active" if active else "inactive")
times = {}
for _, _, role, content, time, active in rows:
    if role == "user":
        times.setdefault(content, []).append((active, time))
last = max(time for active, time in times["question 4"] if not active)
if len({session for _, session, *_ in rows}) != 1:
    sys.exit("changed: it is no longer one session")
for question in ("question 1", "question 4"):
    if [active for active, _ in times[question]] != [0, 1] or times[question][1][1] <= last:
        sys.exit("changed: what is kept is no longer entered anew, with a new time")
if [active for active, _ in times["question 3"]] != [0]:
    sys.exit("changed: what is kept")
PY
echo "as found: the first question is there twice, the second time as if asked after the fourth"
