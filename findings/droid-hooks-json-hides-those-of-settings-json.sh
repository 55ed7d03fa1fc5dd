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
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm droid@0.215.0
unset FACTORY_API_KEY
start_server <<<'{}'

mkdir "$TMP/.factory"
# hooks FILE EVENT...: an object with hooks that write FILE and the event's name.
hooks() {
    python3 - "$TMP/called" "$@" <<'PY'
import json, sys
called, file, *events = sys.argv[1:]
print(json.dumps({event: [{"hooks": [{"type": "command", "timeout": 10,
                                      "command": f"echo {file}:{event} >>'{called}'"}]}] for event in events}))
PY
}
cat >"$TMP/.factory/settings.json" <<JSON
{"customModels": [{"model": "scripted", "displayName": "s", "baseUrl": "$BASE/v1", "apiKey": "k",
                   "provider": "generic-chat-completion-api", "maxOutputTokens": 4000}],
 "hooks": $(hooks settings SessionStart Stop)}
JSON

# called WHAT EXPECTED: start a session; which hooks ran.
called() {
    : >"$TMP/called"
    run droid exec --model custom:scripted "a question"
    seen=$(sort "$TMP/called" | tr '\n' ' ')
    echo "$1: $seen"
    [ "$seen" = "$2" ] || { echo "changed, expected: $2"; exit 1; }
}

called "settings.json alone" "settings:SessionStart settings:Stop "
hooks hooks Stop >"$TMP/.factory/hooks.json"
called "with Stop in hooks.json, at the top" "hooks:Stop settings:SessionStart "
echo "{\"hooks\": $(hooks hooks Stop)}" >"$TMP/.factory/hooks.json"
called "with Stop in hooks.json, under \"hooks\"" "settings:SessionStart settings:Stop "
echo "as found: hooks.json replaces, event by event"
