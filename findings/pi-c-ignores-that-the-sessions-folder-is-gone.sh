#!/usr/bin/env bash
# Guess: pi, asked to go on with a session whose folder no longer exists, does one thing: it
# goes on where it is, or says that it cannot, whichever way the session is named.
# Found: pi 1.6.0 in print mode refuses `--session ID` ("Stored session working directory does
# not exist") and takes the same file with `-c`, without a word: the tools work in the present
# folder, the first line keeps the folder that is gone. `--fork ID` copies it under a new id,
# with the present folder in the first line. (2026-11-28; the project was moved, and its
# folder below sessions/ renamed.)
# It matters to whoever moves projects or brings sessions from another machine: by id they
# look lost, by `-c` they go on under a folder that does not exist; a copy is what fits.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    node@24.21.0 @earendil-works/pi-coding-agent@1.6.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"second-question": [{"tool": "bash", "arguments": {"command": "basename \"$PWD\""}}, {"text": "Second answer."}]}
JSON
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

mkdir -p "$work/.pi/agent" "$work/shop"
cat >"$work/.pi/agent/models.json" <<JSON
{"providers": {"s": {"baseUrl": "$base/v1", "api": "openai-completions", "apiKey": "k",
 "models": [{"id": "scripted", "contextWindow": 200000, "maxTokens": 4000}]}}}
JSON
pi=(pi --provider s --model scripted)
cd "$work/shop"
run "${pi[@]}" -p "the first-question"

mv "$work/shop" "$work/store"
cd "$work/.pi/agent/sessions"
old=$(basename ./*)
mv -- "$old" "${old%shop--}store--"
file=$(find "$PWD" -name '*.jsonl')
id=$(basename "$file" .jsonl)
id=${id#*_}
cd "$work/store"

status=0
timeout 90 "${pi[@]}" --session "$id" -p "the second-question" </dev/null >"$work/refused" 2>&1 || status=$?
echo "by its id: exit status $status; $(grep -o 'Stored session working directory does not exist' "$work/refused")"
[ "$status" = 1 ] || { echo "changed: the session is taken by its id"; exit 1; }
lines=$(wc -l <"$file")
run "${pi[@]}" --fork "$id" -p "go on"
[ "$(wc -l <"$file")" = "$lines" ] || { echo "changed: a fork writes into the file it copies"; exit 1; }
copy=$(find "$work/.pi/agent/sessions" -name '*.jsonl' ! -samefile "$file")
mv "$copy" "$work/copy.jsonl"
run "${pi[@]}" -c -p "the second-question"

python3 - "$work" "$file" <<'PY'
import json, os, sys
work, file = sys.argv[1:]
name = lambda path: os.path.basename(path)
lines = [json.loads(line) for line in open(file)]
copy = [json.loads(line) for line in open(f"{work}/copy.jsonl")]
asked = lambda lines: [part["text"] for line in lines if line["type"] == "message"
                       and line["message"]["role"] == "user" for part in line["message"]["content"]]
ran = [part["text"].strip() for line in lines if line["type"] == "message"
       and line["message"]["role"] == "toolResult" for part in line["message"]["content"]]
print("with -c: first line says", name(lines[0]["cwd"]), "- asked:", asked(lines), "- the tool ran in", ran)
print("with --fork: first line says", name(copy[0]["cwd"]), "- asked:", asked(copy),
      "- a new id:", copy[0]["id"] != lines[0]["id"])
if (name(lines[0]["cwd"]), asked(lines), ran) != ("shop", ["the first-question", "the second-question"], ["store"]):
    sys.exit("changed: what -c does")
if (name(copy[0]["cwd"]), asked(copy)) != ("store", ["the first-question", "go on"]) or copy[0]["id"] == lines[0]["id"]:
    sys.exit("changed: what --fork does")
PY
echo "as found: refused by its id, taken with -c"
