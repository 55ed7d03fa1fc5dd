#!/usr/bin/env bash
# Forking a Codex thread that an older version wrote copies it, with today's date on every line.
#
# One would guess: a copied line keeps its time, as in the forks of Claude Code, Qwen Code and GitHub
# Copilot CLI; so a copy can be told by what it says and when.
# What happens (0.171.0 on a thread of 0.140.0, 2026-11-27): a fork of a newer thread copies nothing,
# but one of an older thread has all its messages again, under the moment of the fork and with
# ids the parent's lines do not have. Only `forked_from_id` in the first line names the parent.
# Why it matters: an archive that knows copies by id or by time keeps every forked conversation
# twice, and shows last year's work as done today.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.140.0
set_up_codex
codex exec $'The harbour opens at six.\nSAY Understood.'
parent=$(find "$HOME/.codex/sessions" -name '*.jsonl')
thread=$(basename "$parent" .jsonl | tail -c 37)
sleep 2
install @openai/codex@0.171.0
codex exec fork "$thread" $'And when does it close?\nSAY At ten.'
child=$(find "$HOME/.codex/sessions" -name '*.jsonl' ! -samefile "$parent")

# prompt FILE FIELDS: of the line in which the first prompt was said.
prompt() {
    python3 -c 'import json, sys
for record in map(json.loads, open(sys.argv[1])):
    if record["payload"].get("role") == "user" and "harbour" in str(record["payload"]):
        print(record["timestamp"], record["payload"].get("id", "no id"))' "$1"
}

expect "the fork names its parent" "$(head -n 1 "$child" | grep -c "\"forked_from_id\":\"$thread\"")" 1
expect "times the first prompt was said, parent and fork" "$(prompt "$parent" | wc -l), $(prompt "$child" | wc -l)" "1, 1"
echo "parent: $(prompt "$parent")"
echo "fork:   $(prompt "$child")"
expect "the same time" "$([ "$(prompt "$parent" | cut -d' ' -f1)" = "$(prompt "$child" | cut -d' ' -f1)" ] &&
    echo yes || echo no)" no
expect "the parent's id" "$(prompt "$parent" | cut -d' ' -f2-)" "no id"
echo "As stated: the copy is dated anew."
