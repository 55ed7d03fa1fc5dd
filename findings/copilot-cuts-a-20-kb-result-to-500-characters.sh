#!/usr/bin/env bash
# GitHub Copilot CLI shows 20,480 bytes of an MCP result whole, and 500 characters of 20,481.
#
# One would guess: a result above the limit is cut down to the limit.
# What happens (1.0.102, 2026-11-27): the model gets the first 500 characters and the name of a file
# in the temporary folder. That file is gone when the session is over, so a resumed session is told
# of a file that is not there. The transcript keeps 10 KB of it, of which the model had seen 500
# characters: `result.content` is what was seen, `result.detailedContent` the longer text.
# Why it matters: a memory that serves pages of, say, 40 KB is nearly unreadable from here, and an
# archive of the transcripts never has the whole result.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
write .copilot/mcp-config.json <<'END'
{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp", "tools": ["*"]}}}
END
python3 - >"$TMP/mcp.json" <<'END'
import json
text = "".join(f"line {number:05} of the page\n" for number in range(2000))
tools = [{"name": name, "description": "Read", "inputSchema": {"type": "object"}} for name in ("short", "long")]
print(json.dumps({"tools/list": {"tools": tools},
                  "tools/call short": {"content": [{"type": "text", "text": text[:20480]}]},
                  "tools/call long": {"content": [{"type": "text", "text": text[:20481]}]}}))
END

copilot --allow-all-tools -p $'CALL box-short {}\nCALL box-long {}\nSAY done'
expect "bytes shown of 20,480" "$(results | sed -n 1p | python3 -c 'import json; print(len(json.loads(input())))')" 20480
told=$(results | sed -n 2p | python3 -c 'import json; print(json.loads(input()))')
shown=${told#*"(first 500 chars):"$'\n'}
expect "characters shown of 20,481" "${#shown}" 500
saved=$(grep -o '/[^ ]*copilot-tool-output[^ ]*txt' <<<"$told")
expect "the file it names is there afterwards" "$([ -e "$saved" ] && echo yes || echo no)" no
kept=$(grep -h tool.execution_complete "$HOME"/.copilot/session-state/*/events.jsonl | tail -n 1 |
    python3 -c 'import json; print(len(json.loads(input())["data"]["result"]["detailedContent"]))')
expect "the transcript keeps about 10 KB" "$((kept / 1000))" 10
echo "As stated: one byte more, and 500 characters are left."
