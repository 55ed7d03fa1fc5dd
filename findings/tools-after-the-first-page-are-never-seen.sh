#!/usr/bin/env bash
# Guess: an MCP client follows `nextCursor`, so a server may hand out its tools in pages.
# Found: Cline 3.0.65, Continue 1.5.47, Kimi Code 2.1.0 and mcp-use 1.7.1 ask for the first
# page alone and say nothing of the rest. The model is never offered the other tools.
# (2026-11-27; opencode 1.18.33, goose 1.52.0 and fastmcp 4.2.3 were seen to follow it.)
# It matters to a memory served over MCP: a tool on a second page does not exist for these
# users, and no log on either side says so. All tools belong on one page.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()
finish() {
    hub=$work/.cline/data/locks/hub/production.json  # Cline leaves a process behind
    [ ! -s "$hub" ] || pids+=("$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["pid"])' "$hub")")
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.1; done
    done
    rm -rf "$work"
}
trap finish EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    node@24.21.0 cline@3.0.65 @continuedev/cli@1.5.47 @moonshot-ai/kimi-code@2.1.0 >/dev/null
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq mcp-use==1.7.1
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work MCP_USE_ANONYMIZED_TELEMETRY=false
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"mcp": {"pages": [["find_first"], ["find_second"]]}}
JSON
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
pids+=($!)
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

mkdir -p "$work/project" "$work/.continue" "$work/.kimi-code"
cat >"$work/.continue/config.yaml" <<YAML
name: t
version: 1.0.0
schema: v1
models:
  - {name: m, provider: openai, model: scripted, apiBase: "$base/v1", apiKey: k, capabilities: [tool_use]}
mcpServers:
  - {name: mem, type: streamable-http, url: "$base/mcp?continue"}
YAML
cat >"$work/.kimi-code/config.toml" <<TOML
default_model = "s/m"
telemetry = false
[providers.s]
type = "openai"
base_url = "$base/v1"
api_key = "k"
[models."s/m"]
provider = "s"
model = "scripted"
max_context_size = 200000
capabilities = ["tool_use"]
TOML
echo "{\"mcpServers\": {\"mem\": {\"url\": \"$base/mcp?kimi\"}}}" >"$work/.kimi-code/mcp.json"

cd "$work/project"
run cline auth openai -k k -m scripted -b "$base/v1"
run cline mcp add mem "$base/mcp?cline" --transport http --yes
run cline --json "say hello"
run cn -p "say hello" --config "$work/.continue/config.yaml"
run kimi -p "say hello"
timeout 90 "$work/venv/bin/python" - "$base/mcp?mcp-use" 2>&1 <<'PY' | grep "^mcp-use gives"
import asyncio, sys
from mcp_use import MCPClient
async def main():
    client = MCPClient.from_dict({"mcpServers": {"mem": {"url": sys.argv[1]}}})
    session = await client.create_session("mem")
    print("mcp-use gives its caller", [tool.name for tool in await session.list_tools()])
    await client.close_all_sessions()
asyncio.run(main())
PY

python3 - "$work/requests.jsonl" <<'PY'
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
