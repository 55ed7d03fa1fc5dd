#!/usr/bin/env bash
# GitHub Copilot CLI puts the text items of an MCP result together with nothing between them.
#
# One would guess: a result of several text items reaches the model as several texts, or with
# a line break between them, as in Codex, Claude Code, Gemini CLI and Qwen Code.
# What happens (1.0.102, 2026-11-27): "... 10 hits" and "1. harbour" become "... 10 hits1. harbour",
# and a resource_link is left out without a word. Its transcript (events.jsonl) keeps only that.
# Why it matters: a memory that answers one item per hit, or a link per page, is read as one run-on
# line; words at the seams are neither the model's to read nor an archive's to find.
# A server should send one text with its own line breaks, and write links out.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
write .copilot/mcp-config.json <<'END'
{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp", "tools": ["*"]}}}
END
cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"}}]},
 "tools/call": {"content": [{"type": "text", "text": "10 hits"},
                            {"type": "text", "text": "1. harbour"},
                            {"type": "resource_link", "uri": "box://page/1", "name": "page one"},
                            {"type": "text", "text": "2. lighthouse"}]}}
END

copilot --allow-all-tools -p $'CALL box-find {}\nSAY done'
expect "the model was told" "$(results)" '"10 hits1. harbour2. lighthouse"'
recorded=$(grep -h tool.execution_complete "$HOME"/.copilot/session-state/*/events.jsonl)
expect "the transcript has the link" "$(grep -c 'box://' <<<"$recorded" || true)" 0
echo "As stated: the items are glued together, the link is gone."
