#!/usr/bin/env bash
# Guess: llm logs every prompt as a row of its own in `responses`, with its conversation and time,
# as it has done for years and as tools that read its logs.db expect.
# Found: in llm 0.36 `responses` and `conversations` exist and stay empty. What was said is in
# `messages`, one row per different text after the same text: two conversations that begin with
# the same question and get the same answer share these rows, which have no time and no
# conversation. Only `turns` (two) tells them apart. (2026-11-27)
# It matters to a reader of logs.db: the old query finds nothing and does not fail; a new one
# that takes `messages` as the log counts a question once that was asked twice.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip llm==0.36
start_server <<<'{}'
set_up_llm

run llm -m scripted "How do I deploy the shop?"
run llm -m scripted "How do I deploy the shop?"

python3 - "$TMP/llm/logs.db" <<'PY'
import sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
count = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
         for table in ("responses", "conversations", "threads", "turns", "messages")}
tips = database.execute("SELECT count(DISTINCT tip_message_hash) FROM turns").fetchone()[0]
columns = [row[1] for row in database.execute("PRAGMA table_info(messages)")]
print("rows:", count)
print("columns of messages:", columns)
if count != {"responses": 0, "conversations": 0, "threads": 2, "turns": 2, "messages": 2} or tips != 1:
    sys.exit("changed: where and how often a prompt is stored")
if any("time" in name or "date" in name or "thread" in name for name in columns):
    sys.exit("changed: messages have a time or a thread now")
PY
echo "as found: two conversations, one pair of messages, nothing in responses"
