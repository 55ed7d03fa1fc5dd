#!/usr/bin/env bash
# Qwen Code does not find the sessions of a folder that was moved, though they lie where it looks.
#
# One would guess: transcripts are filed under the folder's name, as in Claude Code; who moves a project
# renames its folder in ~/.qwen/projects as well, and goes on.
# What happens (0.24.4, 2026-11-28): `--resume` compares the `cwd` of the first line, too, and says that
# there is no session of that id; `--continue` begins a new one without a word. An undocumented file
# beside the transcript, `ID.runtime.json`, comes before that line: with the new folder in its `work_dir`
# the session goes on, the transcript's old lines left as they are.
# Why it matters: who brings transcripts to another machine or folder has to rewrite them, or to know
# of that file; and who trusts `--continue` has lost the conversation without noticing.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @qwen-code/qwen-code@0.24.4

# name FOLDER: what Qwen Code calls it below projects/.
name() { printf %s "$1" | sed 's/[^A-Za-z0-9]/-/g'; }

# seen: whether the model, asked last, was shown the first prompt.
seen() {
    grep -F 'when does it close' "$TMP/requests.jsonl" | grep -cF 'harbour opens at six' | sed 's/^0/no/; s/^[1-9].*/yes/' || true
}

qwen --prompt $'The harbour opens at six.\nSAY Understood.'
session=$(basename "$HOME"/.qwen/projects/*/chats/*.jsonl .jsonl)
expect "filed under the folder's name" "$(cd "$HOME/.qwen/projects" && echo ./*)" "./$(name "$WORK")"

mv "$WORK" "$TMP/work/harbour"
cd "$TMP/work/harbour"
mv "$HOME/.qwen/projects/$(name "$WORK")" "$HOME/.qwen/projects/$(name "$PWD")"
chats=$HOME/.qwen/projects/$(name "$PWD")/chats
rm -f "$chats/$session.runtime.json"
cp "$chats/$session.jsonl" "$TMP/before"

status=0
qwen --resume "$session" --prompt $'And when does it close?\nSAY At ten.' || status=$?
expect "moved, with --resume" "$status, $(grep -oF 'No saved session found with ID' "$TMP/output" | head -n 1)" \
    "1, No saved session found with ID"

forget
cp -r "$HOME/.qwen" "$TMP/kept"
qwen --continue --prompt $'And when does it close?\nSAY At ten.'
expect "moved, with --continue: transcripts, first prompt seen" \
    "$(find "$HOME/.qwen/projects" -name '*.jsonl' | wc -l), $(seen)" "2, no"
rm -rf "$HOME/.qwen"
mv "$TMP/kept" "$HOME/.qwen"

forget
cat >"$chats/$session.runtime.json" <<END
{"schema_version": 1, "pid": 1, "session_id": "$session", "work_dir": "$PWD",
 "hostname": "here", "started_at": 1795833600, "qwen_version": "0.24.4"}
END
qwen --resume "$session" --prompt $'And when does it close?\nSAY At ten.'
expect "with the new folder beside it: transcripts, first prompt seen" \
    "$(find "$HOME/.qwen/projects" -name '*.jsonl' | wc -l), $(seen)" "1, yes"
expect "its old lines" "$(cmp -n "$(stat -c %s "$TMP/before")" "$TMP/before" "$chats/$session.jsonl" && echo unchanged)" unchanged
echo "As stated: the first line's folder counts, unless a file beside it names another."
