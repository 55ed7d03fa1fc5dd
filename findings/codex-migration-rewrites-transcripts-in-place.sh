#!/usr/bin/env bash
# `codex migrate-rollouts --apply` rewrites old transcripts under their old name and time.
#
# One would guess: rollouts are logs that only grow, so what was read once stays as it was; a migration
# fills the new databases, or leaves a new file beside the old.
# What happens (0.171.0 on a thread of 0.140.0, 2026-11-27): the file is replaced by another of the same
# name and the same modification time, which differs from within the first line on. `user_message`
# and `agent_message` events, where readers found what was said, are gone; `item_completed`
# events are there instead.
# Why it matters: an archive that looks at the time only does not notice; one that reads on from the
# last offset gets the middle of other lines; one that knows a transcript by its beginning keeps
# the same conversation a second time.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.140.0
set_up_codex
codex exec $'The harbour opens at six.\nSAY Understood.'
file=$(find "$HOME/.codex/sessions" -name '*.jsonl')
cp "$file" "$TMP/before.jsonl"
before=$(stat -c '%i' "$file")
time=$(stat -c '%y' "$file")
sleep 2
install @openai/codex@0.171.0
codex migrate-rollouts --apply
expect "it says" "$(grep -o '1 migrated' "$TMP/output" | head -n 1)" "1 migrated"

expect "transcripts" "$(find "$HOME/.codex/sessions" -type f | wc -l)" 1
expect "the same file" "$([ "$(stat -c '%i' "$file")" = "$before" ] && echo yes || echo no)" no
expect "its time has changed" "$([ "$(stat -c '%y' "$file")" = "$time" ] && echo no || echo yes)" no
same=$(cmp "$file" "$TMP/before.jsonl" | grep -oE '[0-9]+, line 1$' | cut -d, -f1 || true)
expect "it differs within the first 100 bytes" "$([ "$same" -lt 100 ] && echo yes || echo no)" yes
expect "user_message events, before and after" "$(grep -c '"user_message"' "$TMP/before.jsonl"), $(
    grep -c '"user_message"' "$file" || true)" "1, 0"
expect "item_completed events, before and after" "$(grep -c '"item_completed"' "$TMP/before.jsonl" || true), $(
    grep -c '"item_completed"' "$file")" "0, 2"
echo "As stated: the transcript is another under the old name."
