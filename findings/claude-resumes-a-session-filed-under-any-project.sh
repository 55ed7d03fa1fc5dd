#!/usr/bin/env bash
# `claude --resume ID` takes the session from whatever project it is filed under, and leaves it there.
#
# One would guess: transcripts lie in ~/.claude/projects/<the folder's name>/, so a session is found
# from its own folder alone; or, found from another, it goes on in a file under that folder's name.
# What happens (2.1.332, 2026-11-28): the id is looked for under every project. Resumed in an unrelated
# folder, the session goes on in the old file, under the old project's name, while its tools work in
# the new folder, which gets no project. Each line's `cwd` tells; the file's place does not.
# Why it matters: an archive that files a transcript by its folder, or by its first line's `cwd`, puts
# work under a project in which it was not done, and one that reads only the present project's
# folder misses it.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @anthropic-ai/claude-code@2.1.332
mkdir "$TMP/work/elsewhere"

# folders FILE: those that its lines name as theirs, in order.
folders() { grep -oE '"cwd":"[^"]*"' "$1" | grep -oE 'work/[a-z]+' | uniq | tr '\n' ' '; }

claude -p $'The harbour opens at six.\nSAY Understood.'
file=$(find "$HOME/.claude/projects" -name '*.jsonl')
session=$(basename "$file" .jsonl)
expect "begun in" "$(folders "$file")" "work/notes "

cd "$TMP/work/elsewhere"
forget
claude -p --allowedTools Bash --resume "$session" \
    $'And when does it close?\nCALL Bash {"command": "pwd", "description": "Where"}\nSAY At ten.'
expect "resumed elsewhere, the model sees the first prompt" \
    "$(grep -F 'when does it close' "$TMP/requests.jsonl" | grep -cF 'harbour opens at six' | sed 's/[1-9]/yes/')" yes
expect "its tools work in" "$(results | tail -n 1 | grep -oE 'work/[a-z]+')" work/elsewhere
expect "transcripts" "$(find "$HOME/.claude/projects" -name '*.jsonl' | wc -l)" 1
expect "its lines were written in" "$(folders "$file")" "work/notes work/elsewhere "
expect "it is filed under" "$(basename "$(dirname "$file")" | grep -oE '(notes|elsewhere)$')" notes
echo "As stated: one file, under the first folder's name, for work in two."
