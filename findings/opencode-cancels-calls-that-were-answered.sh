#!/usr/bin/env bash
# Guess: a client sends `notifications/cancelled` when it gives a tool call up.
# Found: opencode 1.18.33 (`opencode run`) sends it after every tool call that was answered
# and whose answer it gave to the model: requestId of the call, reason "AbortError: …".
# (2026-11-27)
# It matters to a server that undoes, counts or logs cancelled calls: each good search or
# write of this client looks like one given up. A cancellation of a finished request must
# be ignored, and says nothing about what the user did.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm opencode-ai@1.18.33
start_server <<'JSON'
{"use-the-memory": [{"tool": "find"}, {"text": "Found."}],
 "mcp": {"pages": [["find"]], "results": {"find": {"content": [{"type": "text", "text": "two notes"}]}}}}
JSON
set_up_opencode "\"mcp\": {\"mem\": {\"type\": \"remote\", \"url\": \"$BASE/mcp\", \"enabled\": true}},"

run opencode run "please use-the-memory"

python3 - "$TMP/requests.jsonl" <<'PY'
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
