#!/usr/bin/env bash
# Guess: the user's message in a transcript is what the user typed.
# Found: gptme 0.35.1 looks for names of existing files in what was typed, and puts their whole
# text behind it, in a fenced block, in the same message. Both conversation.jsonl and
# events.jsonl have it so, role user, without a mark or a field that says where the typed
# text ends. (2026-11-27)
# It matters to an archive: a search finds the words of a file as if the user had said them,
# and a file that was only pointed at, with whatever is in it, is in the memory for good.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip gptme==0.35.1
start_server <<<'{}'
set_up_gptme

echo "The shop opens at nine." >opening.txt
run gptme -n -m local/scripted --name first "Is opening.txt still right?"

python3 - "$TMP/.local/share/gptme/logs/first" <<'PY'
import json, sys
questions = []
for name in ("conversation.jsonl", "events.jsonl"):
    lines = [json.loads(line) for line in open(f"{sys.argv[1]}/{name}")]
    messages = [line.get("payload", {}).get("message", line) for line in lines]
    questions.append(next(m for m in messages if m.get("role") == "user"))
    print(name, "has", repr(questions[-1]["content"]), "and the keys", sorted(questions[-1]))
for question in questions:
    if not question["content"].startswith("Is opening.txt still right?") or "opens at nine" not in question["content"]:
        sys.exit("changed: the file's text is no longer part of the question")
    if "files" in question:
        sys.exit("changed: the message names its files now")
PY
echo "as found: the file's text is stored as the user's words"
