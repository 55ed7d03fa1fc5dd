#!/usr/bin/env bash
# Guess: the words of a question are in the `text` of its part in llm's logs.db, whether a file
# was given with it or not; the file is kept besides, as a fragment.
# Found: in llm 0.36 the `text` of a question asked with `-f FILE` is NULL. What was typed is in
# the JSON of `payload`, as a `literal` between numbers of fragments; and the title of the
# conversation begins with the words of the file. (2026-11-28)
# It matters to a reader of logs.db: with a query that is right for every other question this
# one has no words, nothing fails, and the answer stands alone, under a title that nobody asked.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_pip llm==0.36
start_server <<<'{}'
set_up_llm

echo "The shop opens at nine." >"$TMP/opening.txt"
run llm -m scripted "How do I deploy the shop?"
run llm -m scripted -f "$TMP/opening.txt" "Is this still right?"

python3 - "$TMP/llm/logs.db" <<'PY'
import json, sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
parts = database.execute("""SELECT text, payload FROM parts JOIN messages ON hash = message_hash
                            WHERE role = 'user' ORDER BY parts.id""").fetchall()
titles = [name for name, in database.execute("SELECT name FROM threads ORDER BY id")]
for part in parts:
    print("text:", part[0], "- payload:", part[1])
print("titles:", titles)
if [text for text, _ in parts] != ["How do I deploy the shop?", None]:
    sys.exit("changed: the text of a question with a file")
literals = "".join(piece.get("literal", "") for piece in json.loads(parts[1][1])["text_ref"])
if literals.strip() != "Is this still right?" or not titles[1].startswith("The shop opens"):
    sys.exit("changed: where the words of the question are, or the title")
PY
echo "as found: a question without text"
