#!/usr/bin/env bash
# Guess: a tool result with `isError: true` is stored as a failed call, since MCP has that flag
# for nothing else.
# Found: Continue 1.5.47 stores `"status": "done"` and drops the flag, for the model as well:
# the error's text looks like any result. goose 1.52.0 stores `"status": "success"`, with
# `isError` one level further in. (2026-11-27)
# It matters twice. A reader of these stores cannot go by the status. And a server's error has
# to say in words that it is one: here nothing else tells the model.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm @continuedev/cli@1.5.47 @aaif/goose-binary-linux-x64@1.52.0
start_server <<'JSON'
{"read-the-note": [{"tool": "read_note"}, {"text": "I see."}],
 "mcp": {"pages": [["read_note"]],
         "results": {"read_note": {"isError": true, "content": [{"type": "text", "text": "shop has no notes"}]}}}}
JSON
set_up_continue "mcpServers: [{name: mem, type: streamable-http, url: '$BASE/mcp'}]"
set_up_goose "extensions:
  mem: {enabled: true, type: streamable_http, name: mem, uri: '$BASE/mcp', timeout: 30}"

run cn -p --auto "please read-the-note" --config "$HOME/.continue/config.yaml"
run goose run -t "please read-the-note"

python3 - "$TMP" <<'PY'
import glob, json, sqlite3, sys
work = sys.argv[1]
path, = glob.glob(f"{work}/.continue/sessions/*-*.json")
text = open(path).read()
calls = [call for item in json.loads(text)["history"] for call in item.get("toolCallStates", ())]
print("Continue:", [(call["status"], call["output"][0]["content"]) for call in calls])
database = sqlite3.connect(f"file:{work}/.local/share/goose/sessions/sessions.db?mode=ro", uri=True)
results = [part["toolResult"] for content, in database.execute("SELECT content_json FROM messages ORDER BY id")
           for part in json.loads(content) if part["type"] == "toolResponse"]
print("goose:", results)
told = [m["content"] for line in open(f"{work}/requests.jsonl")
        for m in json.loads(line)["body"].get("messages", ()) if m["role"] == "tool"]
print("the models were told:", told)
if [call["status"] for call in calls] != ["done"] or "isError" in text:
    sys.exit("changed: Continue records the failure now")
if [(r["status"], r["value"].get("isError")) for r in results] != [("success", True)]:
    sys.exit("changed: how goose records the failure")
if any("error" in json.dumps(content).lower() for content in told):
    sys.exit("changed: the models are told of an error now")
PY
echo "as found: done and success"
