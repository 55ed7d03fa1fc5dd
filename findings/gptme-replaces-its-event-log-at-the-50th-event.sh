#!/usr/bin/env bash
# Guess: an event log, append-only as its makers call it, is only added to: who has read it up to
# some byte goes on from there, and what was taken back stays in it, with the event that says so.
# Found: gptme 0.35.1 puts a new file in the place of events.jsonl at every 50th event: one
# `checkpoint` line with all messages as they are now, the hidden system prompts, too. It is
# longer than the file before, so its size betrays nothing. Earlier events are gone, and with
# them what an `undo` had taken back, which conversation.jsonl lost at once. (2026-11-28)
# It matters to an archive that reads the log by its tail: it goes on in the middle of one long
# line, and skips what it cannot parse; it must start anew, and expect a question twice.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip gptme==0.35.1
start_server <<<'{}'
set_up_gptme

logs=$TMP/.local/share/gptme/logs/first
# An answer, and a question taken back; then commands that gptme runs itself, two events each.
prompts=("Is the lion right?" - "/shell echo tiger" - "/undo 2")
for number in $(seq 10 24); do prompts+=(- "/shell echo note $number"); done
run gptme -n -m local/scripted --name first "${prompts[@]}" - /exit
cp "$logs/events.jsonl" "$TMP/before.jsonl"
prompts=()
for number in $(seq 25 34); do prompts+=("/shell echo note $number" -); done
run gptme -n -m local/scripted --name first "${prompts[@]}" /exit

python3 - "$TMP/before.jsonl" "$logs" <<'PY'
import json, sys
before, log = open(sys.argv[1]).read(), open(f"{sys.argv[2]}/events.jsonl").read()
events = {"before": [json.loads(line) for line in before.splitlines()],
          "after": [json.loads(line) for line in log.splitlines()]}
for name, found in events.items():
    kinds = [event["type"] for event in found]
    print(f"{name}: events {found[0]['seq']} to {found[-1]['seq']},",
          {kind: kinds.count(kind) for kind in kinds})
    print(f"{name}: taken back, and there:", "echo tiger" in (before if name == "before" else log))
print("bytes:", len(before), "then", len(log), "- begins as before:", log.startswith(before))
talk = open(f"{sys.argv[2]}/conversation.jsonl").read()
tail = log[len(before):].splitlines()[0]
print("the first line read from the old end on:", repr(tail[:60]))
if [event["seq"] for event in events["before"]] != list(range(1, len(events["before"]) + 1)):
    sys.exit("changed: the log no longer begins at event 1")
if log.startswith(before) or events["after"][0]["type"] != "checkpoint" or len(log) < len(before):
    sys.exit("changed: events.jsonl is no longer replaced by a longer file")
if "echo tiger" not in before or "echo tiger" in log or "echo tiger" in talk:
    sys.exit("changed: what was taken back")
try:
    json.loads(tail)
    sys.exit("changed: the old end is the end of a line")
except ValueError:
    print("as found: a new file under the old name, and its size does not tell")
PY
