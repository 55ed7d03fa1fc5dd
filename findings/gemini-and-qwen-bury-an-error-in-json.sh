#!/usr/bin/env bash
# Gemini CLI and Qwen Code wrap the text of an MCP error in JSON in a sentence; Qwen Code twice.
#
# One would guess: the text of a result with `isError` reaches the model as that of any other result.
# What happens (Gemini CLI 0.61.0, Qwen Code 0.24.4; 2026-11-27): the model reads "MCP tool 'find'
# reported tool error for function call: {...} with response: [{...}]": the call's arguments, then
# the result as JSON, its line breaks turned into backslash and n. In Qwen Code the text is in there
# twice. Their transcripts hold that sentence, not the server's text.
# Why it matters: a memory's hint ("no such page", with a list of near ones) becomes hard to read and
# up to twice as long, and an archive that shows or searches results gets escaped text.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
install @qwen-code/qwen-code@0.24.4
write .gemini/settings.json <<'END'
{"security": {"auth": {"selectedType": "gemini-api-key"}},
 "mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"}}}
END
write .qwen/settings.json <<'END'
{"mcpServers": {"box": {"httpUrl": "http://127.0.0.1:PORT/mcp"}}}
END

# told: how often the text is in what the model read, and whether it has its line break.
told() {
    results | python3 -c 'import json
told = json.loads(input())
told = told.get("error") or told.get("output") if isinstance(told, dict) else told[0]["text"]
print(told.count("No such page."), "times,", "line break kept" if "page.\nNear" in told else "escaped")'
}

answer='"content": [{"type": "text", "text": "No such page.\nNear ones: 6, 8"}]'
tools='"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"}}]}'

echo "{$tools, \"tools/call\": {$answer}}" >"$TMP/mcp.json"
gemini --yolo --prompt $'CALL mcp_box_find {"id": 7}\nSAY done'
expect "an answer, Gemini CLI" "$(told)" "1 times, line break kept"
forget
qwen --yolo --prompt $'CALL mcp__box__find {"id": 7}\nSAY done'
expect "an answer, Qwen Code" "$(told)" "1 times, line break kept"
forget

echo "{$tools, \"tools/call\": {$answer, \"isError\": true}}" >"$TMP/mcp.json"
gemini --yolo --prompt $'CALL mcp_box_find {"id": 7}\nSAY done'
expect "an error, Gemini CLI" "$(told)" "1 times, escaped"
forget
qwen --yolo --prompt $'CALL mcp__box__find {"id": 7}\nSAY done'
expect "an error, Qwen Code" "$(told)" "2 times, escaped"
echo "As stated: an error's text arrives as JSON inside a sentence."
