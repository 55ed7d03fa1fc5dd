#!/usr/bin/env bash
# Gemini CLI's print mode tells the model of an MCP server, and leaves the server's tools out.
#
# One would guess: with `--prompt`, where nobody can be asked, an MCP tool is offered and a call is
# refused, as in Codex, Claude Code, Qwen Code and GitHub Copilot CLI.
# What happens (0.61.0, 2026-11-27): it connects, reads tools and `instructions`, and puts the instructions
# before the model, but no tool; a call is answered 'Tool "mcp_box_find" not found. Did you mean one
# of: ...'. With "trust": true in the server's entry the tools are there.
# Why it matters: a scripted session is told to use a memory it does not have, and the error
# points at a wrong name rather than at the missing permission.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
cat >"$TMP/mcp.json" <<'END'
{"initialize": {"instructions": "Search the box before you answer."},
 "tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"},
                           "annotations": {"readOnlyHint": true}}]},
 "tools/call": {"content": [{"type": "text", "text": "a page"}]}}
END

# session ENTRY: one with a call; says what the first request to the model had, and the call's result.
session() {
    forget
    write .gemini/settings.json <<END
{"security": {"auth": {"selectedType": "gemini-api-key"}},
 "mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"$1}}}
END
    gemini --prompt $'CALL mcp_box_find {}\nSAY done'
    first=$(grep -F -m 1 :streamGenerateContent "$TMP/requests.jsonl")
    instructed=$(grep -c "Search the box" <<<"$first" || true)
    offered=$(grep -c '"name": "mcp_box_find"' <<<"$first" || true)
    told=$(results | grep -oE 'not found. Did you mean|a page')
}

session ""
expect "tools/list was asked" "$(grep -c '"method": "tools/list"' "$TMP/requests.jsonl")" 1
expect "instructed, offered, told" "$instructed, $offered, $told" "1, 0, not found. Did you mean"
session ', "trust": true'
expect "with trust: instructed, offered, told" "$instructed, $offered, $told" "1, 1, a page"
echo "As stated: instructions for tools that are not there."
