#!/usr/bin/env bash
# A message that reaches Claude Code while it works is no `user` record in its transcript.
#
# One would guess: every message a person sends is a record of type "user"; at worst it carries a flag.
# What happens (2.1.332, 2026-11-27): sent while a tool runs, it is taken up within the turn and written as
# type "attachment", attachment type "queued_command", field `prompt`. Other attachments are
# context that nobody typed (the date, the list of skills, hook output), so a reader that skips
# them loses what the person said; here by --input-format stream-json, in the terminal likewise.
# Why it matters: the corrections people shout in while an agent goes astray ("no, the other
# branch") are the part of a session a memory wants most, and the part it misses.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @anthropic-ai/claude-code@2.1.332
say() { printf '{"type": "user", "message": {"role": "user", "content": "%s"}}\n' "$1"; }
mkfifo "$TMP/input"
{
    say 'CALL Bash {\"command\": \"sleep 5\", \"description\": \"Wait\"}\nSAY done'
    for _ in $(seq 300); do
        grep -qs /v1/messages "$TMP/requests.jsonl" && break
        sleep 0.1
    done
    sleep 2
    say 'Mind the lighthouse.'
    sleep 8
} >"$TMP/input" &
INPUT=$TMP/input claude -p --input-format stream-json --output-format stream-json --verbose --allowedTools Bash
wait $!

expect "the model was told" "$(grep -F /v1/messages "$TMP/requests.jsonl" | grep -o 'Mind the lighthouse' | sort -u)" \
    "Mind the lighthouse"
seen=$(cat "$HOME"/.claude/projects/*/*.jsonl | python3 -c 'import json, sys
for record in map(json.loads, sys.stdin):
    attachment = record.get("attachment", {})
    said = record.get("message", {}).get("content") if record["type"] == "user" else attachment.get("prompt")
    if "lighthouse" in str(said):
        print(record["type"], attachment.get("type"))')
expect "records that have it as said" "$seen" "attachment queued_command"
echo "As stated: an attachment, no user record."
