#!/usr/bin/env bash
# Guess: a session store has the results of the tools, perhaps shortened with a mark.
# Found: goose 1.52.0 puts an MCP result of more than 200,000 characters into a file in the
# temporary folder and stores, and tells the model, the path alone: not one word of the result
# is in its database. (2026-11-27)
# It matters to an archive of goose's sessions: after the next cleaning of the temporary folder
# the result is nowhere. And to a server: a page of a large answer that is small is worth more
# than all of it, of which the model sees a file name.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm @aaif/goose-binary-linux-x64@1.52.0
python3 - >"$TMP/script" <<'PY'
import json
text = "\n".join(f"note {number:05}: all is well with the shop" for number in range(8000))
print(json.dumps({"use-the-memory": [{"tool": "find"}, {"text": "Found."}],
                  "mcp": {"pages": [["find"]], "results": {"find": {"content": [{"type": "text", "text": text}]}}}}))
PY
start_server <"$TMP/script"
set_up_goose "extensions:
  mem: {enabled: true, type: streamable_http, name: mem, uri: '$BASE/mcp', timeout: 30}"

run goose run -t "please use-the-memory"

python3 - "$TMP" <<'PY'
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
