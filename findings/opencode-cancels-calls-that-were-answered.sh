#!/usr/bin/env bash
# Guess: a client sends `notifications/cancelled` when it gives a tool call up.
# Found: opencode 1.18.33 (`opencode run`) sends it after every tool call that was answered
# and whose answer it gave to the model: requestId of the call, reason "AbortError: …".
# (2026-11-27)
# It matters to a server that undoes, counts or logs cancelled calls: each good search or
# write of this client looks like one given up. A cancellation of a finished request must
# be ignored, and says nothing about what the user did.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" opencode-ai@1.18.33 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"use-the-memory": [{"tool": "find"}, {"text": "Found."}],
 "mcp": {"pages": [["find"]], "results": {"find": {"content": [{"type": "text", "text": "two notes"}]}}}}
JSON
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
mkdir -p "$work/project" "$work/.config/opencode"
cat >"$work/.config/opencode/opencode.json" <<JSON
{"model": "s/scripted", "autoupdate": false, "permission": "allow",
 "provider": {"s": {"npm": "@ai-sdk/openai-compatible", "models": {"scripted": {}},
                    "options": {"baseURL": "$base/v1", "apiKey": "k"}}},
 "mcp": {"mem": {"type": "remote", "url": "$base/mcp", "enabled": true}}}
JSON

cd "$work/project"
run opencode run "please use-the-memory"

python3 - "$work/requests.jsonl" <<'PY'
import json, sys
bodies = [json.loads(line)["body"] for line in open(sys.argv[1])]
calls = [body["id"] for body in bodies if body.get("method") == "tools/call"]
cancelled = [body["params"] for body in bodies if body.get("method") == "notifications/cancelled"]
given = [m["content"] for body in bodies for m in body.get("messages", ()) if m["role"] == "tool"]
print("tools/call with id", calls, "- the model got", given)
print("cancelled:", cancelled)
if len(calls) != 1 or given != ["two notes"]:
    sys.exit("changed: the call did not go through once")
if [params["requestId"] for params in cancelled] != calls:
    sys.exit("changed: an answered call is no longer cancelled")
PY
echo "as found: the answered call was cancelled"
