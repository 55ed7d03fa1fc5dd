#!/usr/bin/env bash
# GitHub Copilot CLI never tells the model an MCP server's `instructions`.
#
# One would guess: what a server says in `instructions` is put before the model, as Claude Code,
# Codex, Gemini CLI and Qwen Code do; at most it is cut.
# What happens (1.0.102, 2026-11-27): it is read, and no request to the model has a word of it, at
# either revision of the protocol (`initialize` and `server/discover`); the tools are offered.
# Why it matters: a memory that says there when to search and what to keep is not understood;
# what must be known has to stand in the tools' descriptions as well.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
write .copilot/mcp-config.json <<'END'
{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp", "tools": ["*"]}}}
END

# told TEXT: how many requests to the model have it.
told() { grep -F /chat/completions "$TMP/requests.jsonl" | grep -c "$1" || true; }

cat >"$TMP/mcp.json" <<'END'
{"initialize": {"instructions": "Search the box before you answer."},
 "tools/list": {"tools": [{"name": "find", "description": "Find pages", "inputSchema": {"type": "object"}}]}}
END
copilot --allow-all-tools -p "SAY done"
expect "initialize was asked" "$(grep -c '"method": "initialize"' "$TMP/requests.jsonl")" 1
expect "requests with the tool's description" "$(told 'Find pages')" 1
expect "requests with the instructions" "$(told 'Search the box')" 0

forget
cat >"$TMP/mcp.json" <<'END'
{"server/discover": {"resultType": "complete", "supportedVersions": ["2026-07-28"],
                     "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private",
                     "instructions": "Search the box before you answer."},
 "tools/list": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "tools": [{"name": "find", "description": "Find pages", "inputSchema": {"type": "object"}}]}}
END
copilot --allow-all-tools -p "SAY done"
expect "initialize was asked" "$(grep -c '"method": "initialize"' "$TMP/requests.jsonl" || true)" 0
expect "requests with the tool's description" "$(told 'Find pages')" 1
expect "requests with the instructions" "$(told 'Search the box')" 0
echo "As stated: the instructions stay with the client."
