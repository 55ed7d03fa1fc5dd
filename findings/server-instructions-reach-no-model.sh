#!/usr/bin/env bash
# Guess: what an MCP server says in `instructions` at `initialize` is put before the model,
# so it is the place to tell an assistant when to use the server.
# Found: Cline 3.0.65, Continue 1.5.47 and Kimi Code 2.1.0 take the text and drop it; it is
# in no request to the model. (2026-11-27; opencode 1.18.33, goose 1.52.0 and fast-agent
# 0.10.48 were seen to pass it on.)
# It matters to a memory served over MCP: "search here before you ask" has to stand in the
# descriptions of the tools, too, or these assistants never read it.
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
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"mcp": {"instructions": "Ask the memory first, always.", "pages": [["find"]]}}
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
run cline --json "cline says hello"
run cn -p "continue says hello" --config "$work/.continue/config.yaml"
run kimi -p "kimi says hello"

python3 - "$work/requests.jsonl" <<'PY'
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
