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
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 @earendil-works/pi-coding-agent@1.6.0
start_server <<'JSON'
{"second-question": [{"tool": "bash", "arguments": {"command": "basename \"$PWD\""}}, {"text": "Second answer."}]}
JSON
set_up_pi

mkdir "$TMP/shop"
pi=(pi --provider s --model scripted)
cd "$TMP/shop"
run "${pi[@]}" -p "the first-question"

mv "$TMP/shop" "$TMP/store"
cd "$TMP/.pi/agent/sessions"
old=$(basename ./*)
mv -- "$old" "${old%shop--}store--"
file=$(find "$PWD" -name '*.jsonl')
id=$(basename "$file" .jsonl)
id=${id#*_}
cd "$TMP/store"

status=0
timeout 90 "${pi[@]}" --session "$id" -p "the second-question" </dev/null >"$TMP/refused" 2>&1 || status=$?
echo "by its id: exit status $status; $(grep -o 'Stored session working directory does not exist' "$TMP/refused")"
[ "$status" = 1 ] || { echo "changed: the session is taken by its id"; exit 1; }
lines=$(wc -l <"$file")
run "${pi[@]}" --fork "$id" -p "go on"
[ "$(wc -l <"$file")" = "$lines" ] || { echo "changed: a fork writes into the file it copies"; exit 1; }
copy=$(find "$TMP/.pi/agent/sessions" -name '*.jsonl' ! -samefile "$file")
mv "$copy" "$TMP/copy.jsonl"
run "${pi[@]}" -c -p "the second-question"

python3 - "$TMP" "$file" <<'PY'
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
