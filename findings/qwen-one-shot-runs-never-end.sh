#!/usr/bin/env bash
# Qwen Code runs SessionStart hooks for a one-shot prompt, and no SessionEnd.
#
# One would guess: what has a start has an end, as in Claude Code, whose hooks these are, and as in
# Gemini CLI, whose code this is: both run SessionEnd after a one-shot prompt.
# What happens (0.24.4, 2026-11-27): SessionStart and Stop are run, SessionEnd is not, neither with
# --prompt nor when the prompt comes by --resume.
# Why it matters: a memory that archives at the session's end gets nothing of scripted runs; Stop is
# the event to use.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @qwen-code/qwen-code@0.24.4
hook() { echo "\"$1\": [{\"hooks\": [{\"type\": \"command\", \"command\": \"echo $1 >>'$TMP/hooks'\"}]}]"; }
write .qwen/settings.json <<<"{\"hooks\": {$(hook SessionStart), $(hook Stop), $(hook SessionEnd)}}"

qwen --prompt "SAY done"
expect "hooks of a first run" "$(tr '\n' ' ' <"$TMP/hooks")" "SessionStart Stop "
session=$(basename "$HOME"/.qwen/projects/*/chats/*.jsonl .jsonl)
qwen --resume "$session" --prompt "SAY done"
expect "and of a resumed one after it" "$(tr '\n' ' ' <"$TMP/hooks")" "SessionStart Stop SessionStart Stop "
echo "As stated: no SessionEnd."
