#!/usr/bin/env bash
# Guess: hooks from two files add up, as in Claude Code, whose format this is; and both files
# have the same shape.
# Found: droid 0.215.0 reads hooks from ~/.factory/settings.json and ~/.factory/hooks.json. An event
# that hooks.json names is taken from there alone, without a word; other events still come
# from settings.json. In hooks.json the events stand at the top: under "hooks", as settings.json
# has them, they are ignored, without a word. (2026-11-28)
# It matters to a program that adds its hook to settings.json, where the other one's are: with a
# hooks.json that has one hook of that event, it is never called.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work" || { sleep 3; rm -rf "$work"; }' EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" droid@0.215.0 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME FACTORY_API_KEY

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

mkdir -p "$work/project" "$work/.factory"
# hooks FILE EVENT...: an object with hooks that write FILE and the event's name.
hooks() {
    python3 - "$work/called" "$@" <<'PY'
import json, sys
called, file, *events = sys.argv[1:]
print(json.dumps({event: [{"hooks": [{"type": "command", "timeout": 10,
                                      "command": f"echo {file}:{event} >>'{called}'"}]}] for event in events}))
PY
}
cat >"$work/.factory/settings.json" <<JSON
{"customModels": [{"model": "scripted", "displayName": "s", "baseUrl": "$base/v1", "apiKey": "k",
                   "provider": "generic-chat-completion-api", "maxOutputTokens": 4000}],
 "hooks": $(hooks settings SessionStart Stop)}
JSON
cd "$work/project"

# called WHAT EXPECTED: start a session; which hooks ran.
called() {
    : >"$work/called"
    run droid exec --model custom:scripted "a question"
    seen=$(sort "$work/called" | tr '\n' ' ')
    echo "$1: $seen"
    [ "$seen" = "$2" ] || { echo "changed, expected: $2"; exit 1; }
}

called "settings.json alone" "settings:SessionStart settings:Stop "
hooks hooks Stop >"$work/.factory/hooks.json"
called "with Stop in hooks.json, at the top" "hooks:Stop settings:SessionStart "
echo "{\"hooks\": $(hooks hooks Stop)}" >"$work/.factory/hooks.json"
called "with Stop in hooks.json, under \"hooks\"" "settings:SessionStart settings:Stop "
echo "as found: hooks.json replaces, event by event"
