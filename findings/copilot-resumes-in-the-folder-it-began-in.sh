#!/usr/bin/env bash
# GitHub Copilot CLI, told to resume a session elsewhere, goes back to the folder it began in.
#
# One would guess: a resumed session works where it was started this time, as in Codex and Claude
# Code; or it is not found there, as in Gemini CLI and Qwen Code, which keep sessions by folder.
# What happens (Copilot CLI 1.0.102, Codex 0.171.0; 2026-11-27): Copilot CLI runs its tools in the first
# folder, also in print mode and without a word, and writes that folder into `session.resume`.
# Codex works in the new folder and appends to the old file, whose first line names the old one.
# Why it matters: an archive that files a session by its folder may trust the first line with Copilot
# CLI, and files half a session wrongly if it does so with Codex (`turn_context` has each turn's).
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
install @openai/codex@0.171.0
set_up_codex
mkdir "$TMP/work/elsewhere"

# folder: the one that the last command printed, without what is before it.
folder() { results | tail -n 1 | grep -oE 'work/(notes|elsewhere)'; }

copilot --allow-all-tools -p $'CALL bash {"command": "pwd", "description": "Where"}\nSAY done'
expect "Copilot CLI begins in" "$(folder)" work/notes
session=$(ls "$HOME/.copilot/session-state")
cd "$TMP/work/elsewhere"
copilot --allow-all-tools --resume="$session" -p $'CALL bash {"command": "pwd", "description": "Where"}\nSAY done'
expect "Copilot CLI, resumed elsewhere, works in" "$(folder)" work/notes
expect "and writes" "$(grep -h '"session.resume"' "$HOME"/.copilot/session-state/*/events.jsonl |
    grep -oE '"cwd":"[^"]*"' | grep -oE 'work/[a-z]*')" work/notes

cd "$WORK"
forget
codex exec --dangerously-bypass-approvals-and-sandbox $'CALL exec_command {"cmd": "pwd"}\nSAY done'
expect "Codex begins in" "$(folder)" work/notes
file=$(find "$HOME/.codex/sessions" -name '*.jsonl')
thread=$(basename "$file" .jsonl | tail -c 37)
cd "$TMP/work/elsewhere"
codex exec --dangerously-bypass-approvals-and-sandbox --skip-git-repo-check resume "$thread" \
    $'CALL exec_command {"cmd": "pwd"}\nSAY done'
expect "Codex, resumed elsewhere, works in" "$(folder)" work/elsewhere
expect "its files" "$(find "$HOME/.codex/sessions" -name '*.jsonl' | wc -l)" 1
expect "their turns are in" "$(grep '"turn_context"' "$file" | grep -oE '"cwd":"[^"]*"' |
    grep -oE 'work/[a-z]*' | tr '\n' ' ')" "work/notes work/elsewhere "
echo "As stated: Copilot CLI goes back, Codex stays where it was called."
