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
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 @earendil-works/pi-coding-agent@1.6.0
start_server <<<'{}'
set_up_pi

mkdir -p "$TMP/shop/api" "$TMP/shop-api"
cd "$TMP/shop/api"
run pi --provider s --model scripted -p "asked in shop/api"
cd "$TMP/shop-api"
run pi --provider s --model scripted -c -p "asked in shop-api"

python3 - "$TMP" <<'PY'
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
