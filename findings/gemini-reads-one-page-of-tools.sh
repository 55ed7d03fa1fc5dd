#!/usr/bin/env bash
# Gemini CLI takes the first page of an MCP server's tools and does not ask for the next.
#
# One would guess: `nextCursor` in the answer to tools/list is followed, as the protocol has it and
# as Codex, Claude Code, Qwen Code and GitHub Copilot CLI do.
# What happens (0.61.0, 2026-11-27): one tools/list, no warning; the tools of the second page do
# not exist for the model.
# Why it matters: a memory behind a gateway that pages its tools has only some of them here, and
# nothing says so. A server should keep its tools on one page.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
write .gemini/settings.json <<'END'
{"security": {"auth": {"selectedType": "gemini-api-key"}},
 "mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp", "trust": true}}}
END
cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"}}],
                "nextCursor": "2"},
 "tools/list 2": {"tools": [{"name": "note", "description": "Note", "inputSchema": {"type": "object"}}]}}
END

gemini --prompt "SAY done"
expect "tools/list was asked" "$(grep -c '"method": "tools/list"' "$TMP/requests.jsonl")" 1
offered=$(grep -F :streamGenerateContent "$TMP/requests.jsonl" | grep -o '"name": "mcp_box_[a-z]*"' | sort -u)
expect "tools offered" "$offered" '"name": "mcp_box_find"'
expect "warnings about it" "$(grep -ciE 'cursor|page' "$TMP/output" || true)" 0
echo "As stated: the second page is never read."
