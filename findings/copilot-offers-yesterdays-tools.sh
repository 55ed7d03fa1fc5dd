#!/usr/bin/env bash
# GitHub Copilot CLI offers the model the tools an MCP server had in an earlier session.
#
# One would guess: each session asks the server for its tools and offers those.
# What happens (1.0.102, 2026-11-27): it does ask, but offers what it kept on disk under
# ~/.cache/copilot/mcp-tools. In the first session after a server was updated, a new tool is missing,
# and a call to a tool whose description changed does not reach the server: the model is told that
# the "catalog changed". The session after that one is right again.
# Why it matters: whoever updates a memory server sees the first session of every user fail to
# search it, although the server works; a second try in a new session then "repairs" it.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
write .copilot/mcp-config.json <<'END'
{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp", "tools": ["*"]}}}
END

# session: one with a call to `find`; says whether it arrived, and what tools were offered at first.
session() {
    forget
    copilot --allow-all-tools -p $'CALL box-find {}\nSAY done'
    arrived=$(grep -c '"tools/call"' "$TMP/requests.jsonl" || true)
    offered=$(grep -F -m 1 /chat/completions "$TMP/requests.jsonl" | grep -o '"name": "box-[a-z]*"' |
        grep -o 'box-[a-z]*' | tr '\n' ' ')
}

cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"}}]},
 "tools/call": {"content": [{"type": "text", "text": "a page"}]}}
END
session
expect "first session: calls that arrived, tools" "$arrived, $offered" "1, box-find "

cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find pages", "inputSchema": {"type": "object"}},
                          {"name": "note", "description": "Note", "inputSchema": {"type": "object"}}]},
 "tools/call": {"content": [{"type": "text", "text": "a page"}]}}
END
session
expect "first after the update: calls that arrived, tools" "$arrived, $offered" "0, box-find "
expect "the model was told" "$(results | grep -o 'MCP tool catalog changed')" "MCP tool catalog changed"
session
expect "second after the update: calls that arrived, tools" "$arrived, $offered" "1, box-find box-note "
echo "As stated: the first session after an update works with the old tools."
