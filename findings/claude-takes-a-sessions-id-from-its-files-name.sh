#!/usr/bin/env bash
# Claude Code takes a session's id from the name of its file, whatever the lines in it say.
#
# One would guess: `sessionId`, which every line carries, is the session's id; a copy under another
# name is found by the id inside, or refused because the two differ.
# What happens (2.1.332, 2026-11-28): `claude --resume` finds a copy by its new name, and not by the
# id that all its lines carry. What it appends has the new name as `sessionId`, so that one
# file holds lines of two sessions.
# Why it matters: an archive that takes the id from the first line files the copy as a second state
# of the original, and overwrites one conversation with the other.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @anthropic-ai/claude-code@2.1.332
copy=11111111-2222-4333-8444-555555555555

# ids FILE: those that its lines carry, in order of appearance.
ids() { grep -oE '"sessionId":"[^"]*"' "$1" | cut -d'"' -f4 | uniq | sed "s/$session/first/; s/$copy/second/" | tr '\n' ' '; }

claude -p $'The harbour opens at six.\nSAY Understood.'
file=$(find "$HOME/.claude/projects" -name '*.jsonl')
session=$(basename "$file" .jsonl)
mv "$file" "$(dirname "$file")/$copy.jsonl"
renamed=$(dirname "$file")/$copy.jsonl
expect "ids in the renamed file" "$(ids "$renamed")" "first "

status=0
claude -p --resume "$session" $'And when does it close?\nSAY At ten.' || status=$?
expect "resumed by the id in its lines" "$status, $(grep -oF 'No conversation found' "$TMP/output")" \
    "1, No conversation found"
forget
claude -p --resume "$copy" $'And when does it close?\nSAY At ten.'
expect "resumed by the file's name, the model sees the first prompt" \
    "$(grep -F 'when does it close' "$TMP/requests.jsonl" | grep -cF 'harbour opens at six' | sed 's/[1-9]/yes/')" yes
expect "transcripts" "$(find "$HOME/.claude/projects" -name '*.jsonl' | wc -l)" 1
expect "ids in it now" "$(ids "$renamed")" "first second "
echo "As stated: the name decides, and the file has two ids."
