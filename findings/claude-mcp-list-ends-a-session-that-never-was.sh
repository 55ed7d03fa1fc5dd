#!/usr/bin/env bash
# `claude mcp list` runs the SessionEnd hooks, for a session that never began.
#
# One would guess: SessionEnd comes once for every SessionStart; a command that lists servers has no
# session, so no hooks.
# What happens (2.1.332, 2026-11-27): SessionEnd is run, with a new session id, a `transcript_path` at
# which no file exists or will exist, and reason "other", as at the end of a real `claude -p`.
# SessionStart is not run.
# Why it matters: a hook that archives the transcript at the session's end fails, waits or retries
# for a file that never comes, each time somebody looks at the list of servers.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @anthropic-ai/claude-code@2.1.332
write .claude.json <<<'{"mcpServers": {"box": {"type": "http", "url": "http://127.0.0.1:PORT/mcp"}}}'
hook() {
    echo "\"$1\": [{\"hooks\": [{\"type\": \"command\", \"command\": \"cat >>'$TMP/hooks.jsonl'; echo >>'$TMP/hooks.jsonl'\"}]}]"
}
write .claude/settings.json <<<"{\"hooks\": {$(hook SessionStart), $(hook SessionEnd)}}"

claude mcp list
expect "it lists" "$(grep -c '^box: ' "$TMP/output")" 1
seen=$(python3 -c 'import json, os, sys
for hook in map(json.loads, filter(str.strip, sys.stdin)):
    print(hook["hook_event_name"], hook["reason"], "transcript", os.path.exists(hook["transcript_path"]))' \
    <"$TMP/hooks.jsonl")
expect "hooks" "$seen" "SessionEnd other transcript False"
echo "As stated: an end without a beginning."
