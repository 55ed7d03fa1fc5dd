#!/usr/bin/env bash
# GitHub Copilot CLI takes Claude Code's hook events and hook input, but not its hook output.
#
# One would guess: who accepts the event under Claude Code's name (SessionStart) and gives the hook
# Claude Code's input (`hook_event_name`, `session_id`) takes Claude Code's answer as well.
# What happens (1.0.102, 2026-11-27): `hookSpecificOutput.additionalContext` is written into events.jsonl
# as the output of a hook that had success, and the model never sees it. `additionalContext` at the
# top of the answer is what reaches the model, under either spelling of the event.
# Why it matters: a memory's brief at the session's start, printed the usual way, is lost, while
# every log says that it went well.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102

# session ANSWER: one with a SessionStart hook that prints it; says what came of it.
session() {
    forget
    rm -rf "$HOME/.copilot/session-state"
    echo "$1" >"$TMP/answer"
    write .copilot/hooks/brief.json <<END
{"version": 1, "hooks": {"SessionStart": [{"type": "command", "timeoutSec": 10,
                                           "bash": "cat >'$TMP/input'; cat '$TMP/answer'"}]}}
END
    copilot --allow-all-tools -p "SAY done"
    given=$(grep -o '"hook_event_name": *"SessionStart"' "$TMP/input" | tr -d ' ')
    success=$(grep -h '"hook.end"' "$HOME"/.copilot/session-state/*/events.jsonl | grep -o '"success":[a-z]*')
    told=$(grep -F /chat/completions "$TMP/requests.jsonl" | grep -c "harbour opens" || true)
}

session '{"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": "The harbour opens at six."}}'
expect "Claude Code's answer: input, success, requests that have it" "$given, $success, $told" \
    '"hook_event_name":"SessionStart", "success":true, 0'
session '{"additionalContext": "The harbour opens at six."}'
expect "at the top: input, success, requests that have it" "$given, $success, $told" \
    '"hook_event_name":"SessionStart", "success":true, 1'
echo "As stated: one of the two is dropped, both are a success."
