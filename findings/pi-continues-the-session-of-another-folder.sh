#!/usr/bin/env bash
# Guess: `pi -c` continues the last session of the folder it is started in; a folder without
# one gets a new session.
# Found: pi 1.6.0 looks for sessions under the folder's name with every `/` made a `-`, and does
# not compare the folder in the session's first line. Started in shop-api it continues what was
# said in shop/api: one file, one `cwd` (the first), and the model is shown the other project's
# conversation. (2026-11-27)
# It matters to an archive that files transcripts by the `cwd` of the first line: it shows the
# question under a project in which it was never asked.
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

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

mkdir -p "$work/.pi/agent" "$work/shop/api" "$work/shop-api"
cat >"$work/.pi/agent/models.json" <<JSON
{"providers": {"s": {"baseUrl": "$base/v1", "api": "openai-completions", "apiKey": "k",
 "models": [{"id": "scripted", "contextWindow": 200000, "maxTokens": 4000}]}}}
JSON
cd "$work/shop/api"
run pi --provider s --model scripted -p "asked in shop/api"
cd "$work/shop-api"
run pi --provider s --model scripted -c -p "asked in shop-api"

python3 - "$work" <<'PY'
import glob, json, os, sys
work = os.path.realpath(sys.argv[1])
files = glob.glob(f"{work}/.pi/agent/sessions/*/*.jsonl")
for path in files:
    lines = [json.loads(line) for line in open(path)]
    asked = [part["text"] for line in lines if line["type"] == "message" and line["message"]["role"] == "user"
             for part in line["message"]["content"]]
    print("cwd:", os.path.relpath(os.path.realpath(lines[0]["cwd"]), work), "- asked:", asked)
last = json.loads(open(f"{work}/requests.jsonl").readlines()[-1])["body"]
shown = "asked in shop/api" in json.dumps(last["messages"])
print("the model in shop-api was shown the question of shop/api:", shown)
if len(files) != 1 or asked != ["asked in shop/api", "asked in shop-api"] or not shown:
    sys.exit("changed: the two folders no longer share a session")
PY
echo "as found: one session for two folders"
