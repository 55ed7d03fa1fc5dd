#!/usr/bin/env bash
# Guess: "resume the last session" means the last one of this folder, or says which it took;
# what is asked in a folder is recorded under that folder.
# Found: Continue 1.5.47 (`cn -p --resume`) and goose 1.52.0 (`goose run -r`) take the newest
# session of all folders. The question is added to it, its folder stays the first one's, and
# goose even stores a <turn-context> that names the first folder, while it runs in the other.
# (2026-11-27)
# It matters to an archive that files sessions by project: turns of one project stand under
# another, and the recorded folder does not say where the tools of a turn ran.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm @continuedev/cli@1.5.47 @aaif/goose-binary-linux-x64@1.52.0
start_server <<<'{}'
set_up_continue
set_up_goose

mkdir "$TMP/shop" "$TMP/blog"
cd "$TMP/shop"
run cn -p "asked in shop" --config "$HOME/.continue/config.yaml"
run goose run -t "asked in shop"
cd "$TMP/blog"
run cn -p --resume "asked in blog" --config "$HOME/.continue/config.yaml"
run goose run -r -t "asked in blog"

python3 - "$TMP" <<'PY'
import glob, json, os, sqlite3, sys
work = sys.argv[1]
name = lambda path: os.path.basename(path)
found = []
for path in glob.glob(f"{work}/.continue/sessions/*-*.json"):
    session = json.load(open(path))
    asked = [item["message"]["content"] for item in session["history"] if item["message"]["role"] == "user"]
    found.append(("Continue", name(session["workspaceDirectory"]), asked))
database = sqlite3.connect(f"file:{work}/.local/share/goose/sessions/sessions.db?mode=ro", uri=True)
for session, folder in database.execute("SELECT id, working_dir FROM sessions").fetchall():
    texts = [part["text"] for content, in database.execute(
        "SELECT content_json FROM messages WHERE session_id = ? AND role = 'user' ORDER BY id", (session,))
        for part in json.loads(content)]
    found.append(("goose", name(folder), [text for text in texts if text.startswith("asked")]))
    contexts = [name(text.split("<working-directory>")[1].split("<")[0]) for text in texts if "<turn-context>" in text]
for row in found:
    print(*row)
print("goose's turn contexts name", contexts)
both = ["asked in shop", "asked in blog"]
if found != [("Continue", "shop", both), ("goose", "shop", both)]:
    sys.exit("changed: a resumed session belongs to its folder now")
if contexts != ["shop", "shop"]:
    sys.exit("changed: goose's turn contexts")
PY
echo "as found: what was asked in blog is recorded under shop"
