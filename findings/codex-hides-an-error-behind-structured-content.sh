#!/usr/bin/env bash
# Codex drops the text of an MCP error when the result has `structuredContent` too.
#
# One would guess: with `isError` the text, which says what went wrong, is what the model reads; or
# that clients which prefer `structuredContent` do so in errors as in answers.
# What happens (Codex 0.171.0, Claude Code 2.1.332; 2026-11-27): both show only `structuredContent`
# of an answer. Of an error Claude Code shows only the text, and Codex still only
# `structuredContent`, without a word that it is an error.
# Why it matters: "no page 7: search first" in the text and {"hits": []} beside it reads, in Codex, as
# an empty answer. A server that wants to be understood by both sends text alone.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
install @anthropic-ai/claude-code@2.1.332
set_up_codex "[mcp_servers.box]
url = '$BASE/mcp'"
write .claude.json <<<'{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"}}}'

# ask TOOL: call it from both; says what either model was told.
ask() {
    forget
    codex exec --dangerously-bypass-approvals-and-sandbox "CALL mcp__box/$1 {}"$'\nSAY done'
    codex_told=$(results | grep -oE 'no page 7|hits' | tr '\n' ' ')
    codex_results=$(results)
    forget
    claude -p "CALL mcp__box__$1 {}"$'\nSAY done' --allowedTools mcp__box
    claude_told=$(results | grep -oE 'no page 7|hits' | tr '\n' ' ')
}

cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "good", "description": "Read", "inputSchema": {"type": "object"}},
                          {"name": "bad", "description": "Read", "inputSchema": {"type": "object"}}]},
 "tools/call good": {"content": [{"type": "text", "text": "no page 7"}], "structuredContent": {"hits": []}},
 "tools/call bad": {"content": [{"type": "text", "text": "no page 7"}], "structuredContent": {"hits": []},
                    "isError": true}}
END
ask good
expect "an answer: Codex, Claude Code" "$codex_told/ $claude_told" "hits / hits "
ask bad
expect "an error: Codex, Claude Code" "$codex_told/ $claude_told" "hits / no page 7 "
expect "Codex's model reads of an error" "$(grep -ci error <<<"$codex_results" || true)" 0
echo "As stated: in Codex the error's text is lost."
