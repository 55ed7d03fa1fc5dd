#!/usr/bin/env bash
# Codex tells every MCP server the folder, the git remotes and the commit, with each tool call.
#
# One would guess: a server learns the tool's name and arguments; where the user works is only known
# to it if the model says so, or by `roots`, which a server has to ask for.
# What happens (0.171.0, 2026-11-27): `_meta["x-codex-turn-metadata"]` of tools/call holds the absolute
# path of the workspace, its `associated_remote_urls` and `latest_git_commit_hash`, besides session,
# thread, model and sandbox. No setting asks for it, and a remote server gets it as a local one does.
# Claude Code 2.1.332 sends none of it.
# Why it matters: a memory can file a note under the right project without asking the model, and
# its log, if it writes requests down, holds paths and repository addresses nobody meant to send.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
install @anthropic-ai/claude-code@2.1.332
set_up_codex "[mcp_servers.box]
url = '$BASE/mcp'"
write .claude.json <<<'{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"}}}'
cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"},
                           "annotations": {"readOnlyHint": true}}]},
 "tools/call": {"content": [{"type": "text", "text": "a page"}]}}
END
git remote add origin https://git.example.org/team/notes.git
git -c user.name=dev -c user.email=dev@example.org commit -q --allow-empty --message Start

# told: what of this the server's log has of the call.
told() {
    grep '"tools/call"' "$TMP/requests.jsonl" |
        grep -oE "$WORK\"|https://git.example.org/team/notes.git|$(git rev-parse HEAD)" | wc -l
}

codex exec $'CALL mcp__box/find {}\nSAY done'
grep '"tools/call"' "$TMP/requests.jsonl" | grep -o '"workspaces".*"has_changes"' | sed "s|$TMP||"
expect "of folder, remote and commit, Codex told" "$(told)" 3
forget
claude -p $'CALL mcp__box__find {}\nSAY done' --allowedTools mcp__box
expect "Claude Code told" "$(told)" 0
echo "As stated: Codex says where it works."
