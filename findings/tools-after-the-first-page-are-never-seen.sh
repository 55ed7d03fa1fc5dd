#!/usr/bin/env bash
# Guess: an MCP client follows `nextCursor`, so a server may hand out its tools in pages.
# Found: Cline 3.0.65, Continue 1.5.47, Kimi Code 2.1.0 and mcp-use 1.7.1 ask for the first
# page alone and say nothing of the rest. The model is never offered the other tools.
# (2026-11-27; opencode 1.18.33, goose 1.52.0 and fastmcp 4.2.3 were seen to follow it.)
# It matters to a memory served over MCP: a tool on a second page does not exist for these
# users, and no log on either side says so. All tools belong on one page.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 cline@3.0.65 @continuedev/cli@1.5.47 @moonshot-ai/kimi-code@2.1.0
install_pip mcp-use==1.7.1
export MCP_USE_ANONYMIZED_TELEMETRY=false
start_server <<'JSON'
{"mcp": {"pages": [["find_first"], ["find_second"]]}}
JSON
set_up_continue "mcpServers: [{name: mem, type: streamable-http, url: '$BASE/mcp?continue'}]"
set_up_kimi
echo "{\"mcpServers\": {\"mem\": {\"url\": \"$BASE/mcp?kimi\"}}}" >"$TMP/.kimi-code/mcp.json"

run cline auth openai -k k -m scripted -b "$BASE/v1"
run cline mcp add mem "$BASE/mcp?cline" --transport http --yes
run cline --json "say hello"
run cn -p "say hello" --config "$HOME/.continue/config.yaml"
run kimi -p "say hello"
timeout 90 "$TMP/venv/bin/python" - "$BASE/mcp?mcp-use" 2>&1 <<'PY' | grep "^mcp-use gives"
import asyncio, sys
from mcp_use import MCPClient
async def main():
    client = MCPClient.from_dict({"mcpServers": {"mem": {"url": sys.argv[1]}}})
    session = await client.create_session("mem")
    print("mcp-use gives its caller", [tool.name for tool in await session.list_tools()])
    await client.close_all_sessions()
asyncio.run(main())
PY

python3 - "$TMP/requests.jsonl" <<'PY'
import json, sys
seen, offered = {}, set()
for line in open(sys.argv[1]):
    request = json.loads(line)
    body = request["body"]
    if body.get("method") == "tools/list":
        seen.setdefault(request["path"].split("?")[1], []).append((body.get("params") or {}).get("cursor"))
    offered |= {tool["function"]["name"] for tool in body.get("tools") or ()}
for client, cursors in sorted(seen.items()):
    print(client, "asked for the pages", cursors)
print("offered to a model:", sorted(name for name in offered if "find_" in name))
if sorted(seen) != ["cline", "continue", "kimi", "mcp-use"]:
    sys.exit("changed: not every client asked for the tools")
if any(cursor is not None for cursors in seen.values() for cursor in cursors):
    sys.exit("changed: a client follows nextCursor now")
if not any("find_first" in name for name in offered) or any("find_second" in name for name in offered):
    sys.exit("changed: what the models are offered")
PY
echo "as found: the second page was never asked for"
