#!/usr/bin/env bash
# Guess: what an MCP server says in `instructions` at `initialize` is put before the model,
# so it is the place to tell an assistant when to use the server.
# Found: Cline 3.0.65, Continue 1.5.47 and Kimi Code 2.1.0 take the text and drop it; it is
# in no request to the model. (2026-11-27; opencode 1.18.33, goose 1.52.0 and fast-agent
# 0.10.48 were seen to pass it on.)
# It matters to a memory served over MCP: "search here before you ask" has to stand in the
# descriptions of the tools, too, or these assistants never read it.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 cline@3.0.65 @continuedev/cli@1.5.47 @moonshot-ai/kimi-code@2.1.0
start_server <<'JSON'
{"mcp": {"instructions": "Ask the memory first, always.", "pages": [["find"]]}}
JSON
set_up_continue "mcpServers: [{name: mem, type: streamable-http, url: '$BASE/mcp?continue'}]"
set_up_kimi
echo "{\"mcpServers\": {\"mem\": {\"url\": \"$BASE/mcp?kimi\"}}}" >"$TMP/.kimi-code/mcp.json"

run cline auth openai -k k -m scripted -b "$BASE/v1"
run cline mcp add mem "$BASE/mcp?cline" --transport http --yes
run cline --json "cline says hello"
run cn -p "continue says hello" --config "$HOME/.continue/config.yaml"
run kimi -p "kimi says hello"

python3 - "$TMP/requests.jsonl" <<'PY'
import json, sys
requests = [json.loads(line) for line in open(sys.argv[1])]
connected = {r["path"].split("?")[1] for r in requests if r["body"].get("method") == "initialize"}
for agent in ("cline", "continue", "kimi"):
    asked = [json.dumps(r["body"]) for r in requests
             if "chat" in r["path"] and f"{agent} says hello" in json.dumps(r["body"])]
    offered = [body for body in asked if 'find"' in body]
    told = [body for body in asked if "Ask the memory first" in body]
    print(f"{agent}: tool offered in {len(offered)} requests, instructions in {len(told)}")
    if agent not in connected or not offered:
        sys.exit(f"changed: {agent} does not offer the tool")
    if told:
        sys.exit(f"changed: {agent} passes the instructions on now")
PY
echo "as found: the instructions reached no model"
