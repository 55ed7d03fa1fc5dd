#!/usr/bin/env bash
# Guess: the text blocks of a tool result (`content` is a list) reach the model as separate
# blocks, or at least on separate lines.
# Found: Kimi Code 2.1.0 puts them together with nothing between, goose 1.52.0 with one space.
# Kimi's transcript has the joined text, too. (2026-11-27; opencode, pi and fast-agent put
# a blank line, a line break and a space.)
# It matters to a server that answers with one block per hit: the last word of one hit and the
# first of the next become one word, and a heading is none any more. One block is safe.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    node@24.21.0 @moonshot-ai/kimi-code@2.1.0 @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"use-the-memory": [{"tool": "find"}, {"text": "Found."}],
 "mcp": {"pages": [["find"]], "results": {"find": {"content": [
     {"type": "text", "text": "# Deploy\nrun make ship"}, {"type": "text", "text": "# Backup\nevery night"}]}}}}
JSON
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1
goose=$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose
mkdir -p "$work/project" "$work/.kimi-code" "$work/.config/goose"
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
echo "{\"mcpServers\": {\"mem\": {\"url\": \"$base/mcp\"}}}" >"$work/.kimi-code/mcp.json"
cat >"$work/.config/goose/config.yaml" <<YAML
GOOSE_PROVIDER: openai
GOOSE_MODEL: scripted
GOOSE_MODE: auto
extensions:
  mem: {enabled: true, type: streamable_http, name: mem, uri: "$base/mcp", timeout: 30}
YAML

cd "$work/project"
run kimi -p "please use-the-memory"
run "$goose" run -t "please use-the-memory"

python3 - "$work" <<'PY'
import glob, json, sys
work = sys.argv[1]
def text(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
told = [text(m["content"]) for line in open(f"{work}/requests.jsonl")
        for m in json.loads(line)["body"].get("messages", ()) if m["role"] == "tool"]
print("the models were told:", told)
wire, = glob.glob(f"{work}/.kimi-code/sessions/*/*/agents/main/wire.jsonl")
stored = [event["event"]["result"]["output"] for event in map(json.loads, open(wire))
          if event.get("event", {}).get("type") == "tool.result"]
print("Kimi stored:", stored)
if len(told) != 2 or "ship# Backup" not in told[0] or "ship # Backup" not in told[1]:
    sys.exit("changed: how the blocks are put together")
if len(stored) != 1 or "ship# Backup" not in stored[0]:
    sys.exit("changed: what Kimi stores")
PY
echo "as found: ship# Backup"
