#!/usr/bin/env bash
# Gemini CLI deletes a session that was resumed a minute or more after it began.
#
# One would guess: sessions stay for the retention time (30 days), and resuming one keeps it younger.
# What happens (0.61.0, 2026-11-27): the resume appends to the old file, and writes a second, empty one
# with the same session id whose name differs in the minute. At the next start in that project
# the empty one is swept away, and with it every file whose name ends in the same eight characters,
# so the conversation itself, minutes old. Nothing is said; the exit status is 0.
# Why it matters: an archive that collects transcripts once a day finds the sessions people came
# back to, usually the ones worth keeping, gone. They must be read before Gemini CLI starts again,
# and a file that vanished is no order to forget what was archived.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
write .gemini/settings.json <<<'{"security": {"auth": {"selectedType": "gemini-api-key"}}}'

# holding TEXT: how many of the transcripts have it.
holding() { cat "$HOME"/.gemini/tmp/*/chats/*.jsonl | grep -c "$1" || true; }

gemini --prompt $'The harbour opens at six.\nSAY done'
expect "transcripts" "$(find "$HOME/.gemini/tmp" -name 'session-*' | wc -l)" 1
echo "waiting for the next minute"
sleep $((61 - 10#$(date +%S)))
gemini --resume latest --prompt $'And closes at ten.\nSAY done'
expect "exit status of the resume" "$?" 0
expect "transcripts after the resume" "$(find "$HOME/.gemini/tmp" -name 'session-*' | wc -l)" 2
expect "the conversation is in one" "$([ "$(holding 'closes at ten')" -gt 0 ] && echo yes || echo no)" yes
gemini --prompt $'Another matter.\nSAY done'
expect "exit status of the next session" "$?" 0
expect "transcripts after it" "$(find "$HOME/.gemini/tmp" -name 'session-*' | wc -l)" 1
expect "lines with the conversation" "$(holding 'harbour\|closes at ten')" 0
echo "As stated: the session that was resumed is gone."
