#!/usr/bin/env bash
# Guess: a hook is told the event under the name by which it was asked for, as everywhere else:
# Cline's hook file TaskComplete gets `"hookName": "TaskComplete"`.
# Found: Cline 3.0.65 runs ~/.cline/hooks/TaskComplete.sh with `"hookName": "agent_end"`, TaskStart
# with "agent_start" and PreToolUse with "tool_call". The payload has no field for the file's
# name; what is special to the event stands under the file's name in another spelling
# (`taskComplete`, `preToolUse`). No executable bit is needed either. (2026-11-28)
# It matters to one program behind all hooks that decides by the event's name, as a memory does:
# it takes the end of the task for an event it does not know, and archives nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()
finish() {
    hub=$work/.cline/data/locks/hub/production.json  # Cline leaves a process behind
    [ ! -s "$hub" ] || pids+=("$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["pid"])' "$hub")")
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.1; done
    done
    rm -rf "$work"
}
trap finish EXIT
run() { timeout 90 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" node@24.21.0 cline@3.0.65 >/dev/null
export HOME=$work PATH=$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME

cat >"$work/script.json" <<'JSON'
{"first-question": [{"tool": "run_commands", "arguments": {"commands": ["echo hello"]}}, {"text": "First answer."}]}
JSON
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
pids+=($!)
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

mkdir -p "$work/project" "$work/.cline/hooks" "$work/told"
for event in TaskStart PreToolUse TaskComplete; do
    printf '#!/bin/sh\ncat >"%s/new.%s" && mv "%s/new.%s" "%s/told/%s"\necho "{}"\n' \
        "$work" $event "$work" $event "$work" $event >"$work/.cline/hooks/$event.sh"
    chmod 644 "$work/.cline/hooks/$event.sh"
done
cd "$work/project"
run cline auth openai -k k -m scripted -b "$base/v1"
run cline --json --auto-approve true "the first-question"
for _ in $(seq 100); do [ -s "$work/told/TaskComplete" ] && break; sleep 0.1; done

python3 - "$work/told" <<'PY'
import json, os, sys
folder = sys.argv[1]
seen = {}
for event in ("TaskStart", "PreToolUse", "TaskComplete"):
    path = os.path.join(folder, event)
    told = json.load(open(path)) if os.path.exists(path) else {}
    seen[event] = told.get("hookName")
    named = [key for key, value in told.items() if value == event]
    print(f"{event}.sh is told", seen[event], "- fields that hold its name:", named, "- keys:", *sorted(told))
    if named:
        sys.exit("changed: the payload has the file's name")
if seen != {"TaskStart": "agent_start", "PreToolUse": "tool_call", "TaskComplete": "agent_end"}:
    sys.exit("changed: the names told")
PY
echo "as found: three files, three other names"
