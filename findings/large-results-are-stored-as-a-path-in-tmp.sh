#!/usr/bin/env bash
# Guess: a session store has the results of the tools, perhaps shortened with a mark.
# Found: goose 1.52.0 puts an MCP result of more than 200,000 characters into a file in the
# temporary folder and stores, and tells the model, the path alone: not one word of the result
# is in its database. (2026-11-27)
# It matters to an archive of goose's sessions: after the next cleaning of the temporary folder
# the result is nowhere. And to a server: a page of a large answer that is small is worth more
# than all of it, of which the model sees a file name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

python3 - >"$work/script.json" <<'PY'
import json
text = "\n".join(f"note {number:05}: all is well with the shop" for number in range(8000))
print(json.dumps({"use-the-memory": [{"tool": "find"}, {"text": "Found."}],
                  "mcp": {"pages": [["find"]], "results": {"find": {"content": [{"type": "text", "text": text}]}}}}))
PY
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1
goose=$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose
mkdir -p "$work/project" "$work/.config/goose"
cat >"$work/.config/goose/config.yaml" <<YAML
GOOSE_PROVIDER: openai
GOOSE_MODEL: scripted
GOOSE_MODE: auto
extensions:
  mem: {enabled: true, type: streamable_http, name: mem, uri: "$base/mcp", timeout: 30}
YAML

cd "$work/project"
run "$goose" run -t "please use-the-memory"

python3 - "$work" <<'PY'
import json, os, re, sqlite3, sys
work = sys.argv[1]
database = sqlite3.connect(f"file:{work}/.local/share/goose/sessions/sessions.db?mode=ro", uri=True)
rows = [content for content, in database.execute("SELECT content_json FROM messages ORDER BY id")]
stored = [part["toolResult"]["value"]["content"][0]["text"] for content in rows
          for part in json.loads(content) if part["type"] == "toolResponse"]
print("stored:", [text.replace(work, "TMP")[:250] for text in stored])
if len(stored) != 1 or len(stored[0]) > 1000 or any("all is well" in content for content in rows):
    sys.exit("changed: the result is in the store now")
path = re.search(re.escape(work) + r"/\S+", stored[0])
size = os.path.getsize(path[0].rstrip(".")) if path and os.path.exists(path[0].rstrip(".")) else 0
print("the file in the temporary folder has", size, "bytes")
if size < 200_000:
    sys.exit("changed: the result is no longer in a file of the temporary folder")
PY
echo "as found: a path, and no word of the result"
