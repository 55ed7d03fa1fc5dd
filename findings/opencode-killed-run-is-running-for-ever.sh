#!/usr/bin/env bash
# Guess: a tool call that was under way when opencode was killed is marked as ended (aborted,
# error) when the session is opened again; at the latest when it is continued.
# Found: opencode 1.18.33 never does. The part keeps `state.status` "running" and the message
# no `time.completed`, while the session goes on behind it. To the model it sends "[Tool
# execution was interrupted]", which is stored nowhere. (2026-11-27)
# It matters to an archive that waits for records to be finished: one that stops at the first
# unfinished record stops there for ever, and one that skips it loses what the tool was asked.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm opencode-ai@1.18.33
start_server <<'JSON'
{"first-question": [{"tool": "bash", "arguments": {"command": "echo $$ >started; exec sleep 30", "description": "wait"}}],
 "second-question": [{"text": "Second answer."}]}
JSON
set_up_opencode

python3 - <<'PY'
import os, signal, subprocess, sys, time
run = subprocess.Popen(["opencode", "run", "the first-question"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
for _ in range(600):
    if os.path.exists("started") and os.path.getsize("started"):
        break
    time.sleep(0.1)
else:
    print("changed: the tool did not start")
time.sleep(2)
os.killpg(run.pid, signal.SIGKILL)
PY
end_later "$(cat started)"
sleep 1
run opencode run -c "the second-question"

python3 - "$TMP/.local/share/opencode/opencode.db" "$TMP/requests.jsonl" <<'PY'
import json, sqlite3, sys
last = json.loads(open(sys.argv[2]).readlines()[-1])["body"]["messages"]
told = [message["content"] for message in last if message["role"] == "tool"]
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
rows = [json.loads(data) for data, in database.execute("SELECT data FROM message ORDER BY time_created, id")]
parts = [json.loads(data) for data, in database.execute("SELECT data FROM part ORDER BY time_created, id")]
state = [part["state"]["status"] for part in parts if part["type"] == "tool"]
print("sessions:", *database.execute("SELECT count(*) FROM session").fetchone())
print("messages:", [(row["role"], "completed" in row["time"]) for row in rows])
print("the model was told:", told)
print("tool:", state, "- last text:", [part["text"] for part in parts if part["type"] == "text"][-1])
if [row["role"] for row in rows] != ["user", "assistant"] * 2:
    sys.exit("changed: the session was not continued")
if told != ["[Tool execution was interrupted]"] or any("interrupted" in json.dumps(row) for row in rows + parts):
    sys.exit("changed: what the model is told, or that it is stored nowhere")
if state != ["running"] or "completed" in rows[1]["time"] or "completed" not in rows[3]["time"]:
    sys.exit("changed: a killed run is marked as ended now")
PY
echo "as found: unfinished for ever, with a finished turn behind it"
