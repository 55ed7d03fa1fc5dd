#!/usr/bin/env bash
# Qwen Code's transcript gives a file mentioned with @ as words of a "real_user".
#
# One would guess: the transcript has what was typed ("look at @notes.txt"), and the file's text, if
# at all, in a record of its own, as in Claude Code (an attachment); above all as every record says
# whose words it holds (`provenance`).
# What happens (0.24.4, 2026-11-27): one record, type "user", provenance "real_user", whose message has
# five parts: what was typed, then the file's text between three lines of the program's. Nothing else
# in the record tells the typed part from the rest. Gemini CLI 0.61.0, of whose family it is, writes
# the same parts, but beside them a field `displayContent` with what was typed.
# Why it matters: an archive that trusts `provenance` shows, searches and counts whole files as what
# a person said. The first part is what was typed.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @qwen-code/qwen-code@0.24.4
install @google/gemini-cli@0.61.0
write .gemini/settings.json <<<'{"security": {"auth": {"selectedType": "gemini-api-key"}}}'
echo "The lighthouse is white." >notes.txt

# describe: the user's record that has the file's text, in short.
describe() {
    python3 -c 'import json, sys
for line in sys.stdin:
    record = json.loads(line)
    parts = record.get("message", {}).get("parts") or record.get("content") or []
    if record.get("type") == "user" and "lighthouse is white" in line:
        typed = record.get("displayContent", [{}])[0].get("text", "no separate typed text")
        print(record.get("provenance", "no provenance"), "|", len(parts), "parts |",
              parts[0]["text"].splitlines()[0], "|", typed.splitlines()[0])'
}

qwen --prompt $'look at @notes.txt\nSAY done'
expect "Qwen Code" "$(cat "$HOME"/.qwen/projects/*/chats/*.jsonl | describe)" \
    "real_user | 5 parts | look at @notes.txt | no separate typed text"
gemini --prompt $'look at @notes.txt\nSAY done'
expect "Gemini CLI" "$(cat "$HOME"/.gemini/tmp/*/chats/*.jsonl | describe)" \
    "no provenance | 5 parts | look at @notes.txt | look at @notes.txt"
echo "As stated: the file's text is written down as the user's."
