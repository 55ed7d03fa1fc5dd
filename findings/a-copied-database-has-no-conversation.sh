#!/usr/bin/env bash
# Guess: when the agent has ended, its SQLite file is complete; a copy of it is a backup. (The
# last connection to close moves the -wal file into it and deletes that.)
# Found: goose 1.52.0 and opencode 1.18.33 end without closing it. After the first run the main
# file is 4,096 bytes without a single table, everything is in the -wal file beside it, and it
# stays so until something else opens the store. (2026-11-27)
# It matters to a backup or an archive that takes `*.db`: it copies an empty database, with no
# error, from an agent that is not even running. `mode=ro` with the -wal in place sees it all;
# `immutable=1` does not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    opencode-ai@1.18.33 @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1
goose=$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose
mkdir -p "$work/project" "$work/.config/goose" "$work/.config/opencode"
printf 'GOOSE_PROVIDER: openai\nGOOSE_MODEL: scripted\n' >"$work/.config/goose/config.yaml"
cat >"$work/.config/opencode/opencode.json" <<JSON
{"model": "s/scripted", "autoupdate": false,
 "provider": {"s": {"npm": "@ai-sdk/openai-compatible", "models": {"scripted": {}},
                    "options": {"baseURL": "$base/v1", "apiKey": "k"}}}}
JSON

cd "$work/project"
run "$goose" run -t "how do I deploy"
run opencode run "how do I deploy"

python3 - "$work" <<'PY'
import os, shutil, sqlite3, sys
work = sys.argv[1]
def look(path, options):
    database = sqlite3.connect(f"file:{path}?{options}", uri=True)
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    name = next((name for name in ("messages", "message") if name in tables), None)
    count = database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] if name else 0
    database.close()
    return len(tables), count
changed = False
for agent, path in (("goose", "goose/sessions/sessions.db"), ("opencode", "opencode/opencode.db")):
    path = f"{work}/.local/share/{path}"
    copy = f"{work}/{agent}-copy.db"
    shutil.copy(path, copy)
    copied, immutable, live = look(copy, "mode=rw"), look(path, "immutable=1"), look(path, "mode=ro")
    print(f"{agent}: main file {os.path.getsize(path)} bytes, -wal {os.path.getsize(path + '-wal')};",
          f"(tables, messages) in a copy {copied}, with immutable=1 {immutable}, with mode=ro {live}")
    changed |= copied != (0, 0) or immutable != (0, 0) or not live[1]
if changed:
    sys.exit("changed: the main file has the conversation now")
PY
echo "as found: the copy is empty"
