#!/usr/bin/env bash
# Guess: the user's message in a transcript is what the user typed.
# Found: gptme 0.35.1 looks for names of existing files in what was typed, and puts their whole
# text behind it, in a fenced block, in the same message. Both conversation.jsonl and
# events.jsonl have it so, role user, without a mark or a field that says where the typed
# text ends. (2026-11-27)
# It matters to an archive: a search finds the words of a file as if the user had said them,
# and a file that was only pointed at, with whatever is in it, is in the memory for good.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 120 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq gptme==0.35.1
export HOME=$work PATH=$work/venv/bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_BASE_URL=$base/v1 OPENAI_API_KEY=k
mkdir -p "$work/project" "$work/.config/gptme"
printf '[prompt]\nabout_user = "A programmer."\n' >"$work/.config/gptme/config.toml"

cd "$work/project"
echo "The shop opens at nine." >opening.txt
run gptme -n -m local/scripted --name first "Is opening.txt still right?"

python3 - "$work/.local/share/gptme/logs/first" <<'PY'
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
