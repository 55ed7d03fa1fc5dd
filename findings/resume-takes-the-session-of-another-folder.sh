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
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    @continuedev/cli@1.5.47 @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1
goose=$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose
mkdir -p "$work/shop" "$work/blog" "$work/.continue" "$work/.config/goose"
cat >"$work/.continue/config.yaml" <<YAML
name: t
version: 1.0.0
schema: v1
models:
  - {name: m, provider: openai, model: scripted, apiBase: "$base/v1", apiKey: k, capabilities: [tool_use]}
YAML
cat >"$work/.config/goose/config.yaml" <<YAML
GOOSE_PROVIDER: openai
GOOSE_MODEL: scripted
GOOSE_MODE: auto
YAML

cd "$work/shop"
run cn -p "asked in shop" --config "$work/.continue/config.yaml"
run "$goose" run -t "asked in shop"
cd "$work/blog"
run cn -p --resume "asked in blog" --config "$work/.continue/config.yaml"
run "$goose" run -r -t "asked in blog"

python3 - "$work" <<'PY'
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
