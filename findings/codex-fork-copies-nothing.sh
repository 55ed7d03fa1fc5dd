#!/usr/bin/env bash
# A forked Codex thread is a file with none of the conversation it goes on from.
#
# One would guess: a fork is a copy with a new id, as Claude Code, Qwen Code and GitHub Copilot CLI
# make it, and as Codex itself did before; each transcript can be read alone.
# What happens (0.171.0, 2026-11-27): the new file begins with `history_base` {thread_id,
# end_ordinal_exclusive, end_byte_offset}, which points into the parent's file; the earlier messages
# are only there, and the model is sent them. Ordinals go on from the parent's.
# `codex delete` of the parent is refused while the fork lives.
# Why it matters: an archive that stores each file as one session keeps answers without their
# questions; it must follow `history_base`, up to the offset and not further.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
set_up_codex
codex exec $'The harbour opens at six.\nSAY Understood.'
parent=$(find "$HOME/.codex/sessions" -name '*.jsonl')
thread=$(basename "$parent" .jsonl | tail -c 37)
size=$(stat -c %s "$parent")
forget
codex exec fork "$thread" $'And when does it close?\nSAY At ten.'
child=$(find "$HOME/.codex/sessions" -name '*.jsonl' ! -samefile "$parent")

expect "the model was sent the earlier prompt" "$(grep -c 'harbour opens at six' "$TMP/requests.jsonl")" 1
expect "lines of the new file that have it" "$(grep -c 'harbour opens at six' "$child" || true)" 0
base=$(head -n 1 "$child" | python3 -c 'import json
record = json.loads(input())
base = record["payload"]["history_base"]
print(base["thread_id"], base["end_byte_offset"], base["end_ordinal_exclusive"] == record["ordinal"])')
expect "it points to" "$base" "$thread $size True"
status=0
codex delete --force "$thread" || status=$?
expect "deleting the parent" "$status, $([ -e "$parent" ] && echo still there)" "1, still there"
echo "As stated: the fork's file has a pointer in place of the conversation."
