#!/usr/bin/env bash
# `codex exec`, whose approval policy is "never", refuses MCP tools that carry no hints.
#
# One would guess: "never ask" means that every configured tool runs; annotations, which the protocol
# calls mere hints, change how a tool is shown.
# What happens (0.171.0, 2026-11-27): without annotations a call does not reach the server; the model
# is told "MCP tool call requires approval, but approval policy is never". `destructiveHint: false`
# alone changes nothing, nor does `openWorldHint: false` alone; with both it runs, as it does
# with `readOnlyHint: true`. The exit status is 0 in each case.
# Why it matters: a memory whose note-taking tool writes, so cannot say that it is read-only, works
# in the terminal and never in a script, unless it declares both hints.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
set_up_codex "[mcp_servers.box]
url = '$BASE/mcp'"

# session ANNOTATIONS: one with a call to a tool that has them; says how it went.
session() {
    forget
    cat >"$TMP/mcp.json" <<END
{"tools/list": {"tools": [{"name": "note", "description": "Note", "inputSchema": {"type": "object"},
                           "annotations": $1}]},
 "tools/call": {"content": [{"type": "text", "text": "noted"}]}}
END
    status=0
    codex exec $'CALL mcp__box/note {}\nSAY done' || status=$?
    arrived=$(grep -c '"tools/call"' "$TMP/requests.jsonl" || true)
    told=$(results | grep -oE 'requires approval, but approval policy is never|noted')
}

refused="0, requires approval, but approval policy is never, 0"
session '{}'
expect "no hints: arrived, told, exit status" "$arrived, $told, $status" "$refused"
session '{"destructiveHint": false}'
expect "not destructive" "$arrived, $told, $status" "$refused"
session '{"openWorldHint": false}'
expect "closed world" "$arrived, $told, $status" "$refused"
session '{"destructiveHint": false, "openWorldHint": false}'
expect "both" "$arrived, $told, $status" "1, noted, 0"
echo "As stated: without hints, or with one of the two, the call is refused."
