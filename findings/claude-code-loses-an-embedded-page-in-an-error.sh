#!/usr/bin/env bash
# Claude Code leaves embedded resources out of an MCP result that has `isError`.
#
# One would guess: what a tool returned reaches the model in the same form, error or not.
# What happens (2.1.332, 2026-11-27): in an answer an embedded text resource is shown ("[Resource from box
# at ...] ..."), in an error it is gone without a word, while text and resource_link
# stay. The transcript has no more of it than the model.
# Why it matters: "page 7 moved, here is the new one" with the page embedded arrives without the page.
# A server should put everything an error has to say into its text.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @anthropic-ai/claude-code@2.1.332
write .claude.json <<<'{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"}}}'
content='[{"type": "text", "text": "Page 7 moved."},
          {"type": "resource_link", "uri": "box://page/8", "name": "page 8"},
          {"type": "resource", "resource": {"uri": "box://page/9", "mimeType": "text/plain", "text": "At six."}}]'
cat >"$TMP/mcp.json" <<END
{"tools/list": {"tools": [{"name": "good", "description": "Read", "inputSchema": {"type": "object"}},
                          {"name": "bad", "description": "Read", "inputSchema": {"type": "object"}}]},
 "tools/call good": {"content": $content}, "tools/call bad": {"content": $content, "isError": true}}
END

# told TOOL: call it; says which of the three items the model was told.
told() {
    forget
    claude -p "CALL mcp__box__$1 {}"$'\nSAY done' --allowedTools mcp__box
    results | grep -oE 'Page 7 moved|box://page/8|At six' | tr '\n' ' '
}

expect "of an answer" "$(told good)" "Page 7 moved box://page/8 At six "
expect "of an error" "$(told bad)" "Page 7 moved box://page/8 "
expect "lines of the transcripts that have the page" \
    "$(cat "$HOME"/.claude/projects/*/*.jsonl | grep '"tool_result"' | grep -v api-request | grep -c 'At six')" 1
echo "As stated: the embedded resource is lost in an error."
