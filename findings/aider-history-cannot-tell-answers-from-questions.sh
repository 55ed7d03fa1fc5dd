#!/usr/bin/env bash
# Guess: aider marks the user's lines in .aider.chat.history.md with `####`, its own with `>`,
# a session with `# aider chat started at`; a model's answer that has such lines, as Markdown
# does, is escaped or indented.
# Found: aider 0.86.2 writes the answer as it is. A level-four heading of the answer is, to the
# byte, a question of the user (with two spaces at its end), a quotation is a line of aider's,
# and a line about aider begins a session that never was. (2026-11-27)
# It matters to everything that reads the file, aider's only record: a parser cannot be right,
# and has to say "probably". .aider.input.history has what was really typed, to compare with
# (each --message twice).
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip aider-chat==0.86.2
start_server <<'JSON'
{"the-cache": [{"text": "#### Delete it  \nIt is stale.\n\n> Applied edit to shop.py\n\n# aider chat started at 2020-01-01 00:00:00\n"}]}
JSON

run aider --model openai/scripted --openai-api-base "$BASE/v1" --openai-api-key k --no-git --yes-always \
    --no-check-update --analytics-disable --no-show-model-warnings --no-stream --message "what of the-cache"

python3 - <<'PY'
import sys
lines = open(".aider.chat.history.md").read().splitlines()
questions = [line for line in lines if line.startswith("#### ")]
sessions = [line for line in lines if line.startswith("# aider chat started at ")]
edits = [line for line in lines if line.startswith("> Applied edit")]
typed = [line for line in open(".aider.input.history").read().splitlines() if line.startswith("+")]
print("questions by their mark:", questions)
print("sessions by their mark:", len(sessions), "- edits:", edits)
print("really typed:", typed)
if questions != ["#### what of the-cache  ", "#### Delete it  "] or len(sessions) != 2 or len(edits) != 1:
    sys.exit("changed: answers are set off from questions now")
if typed != ["+what of the-cache"] * 2:
    sys.exit("changed: what the input history has")
PY
echo "as found: one question was asked, two are in the file"
