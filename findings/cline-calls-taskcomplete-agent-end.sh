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
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 cline@3.0.65
start_server <<'JSON'
{"first-question": [{"tool": "run_commands", "arguments": {"commands": ["echo hello"]}}, {"text": "First answer."}]}
JSON

mkdir -p "$TMP/.cline/hooks" "$TMP/told"
for event in TaskStart PreToolUse TaskComplete; do
    printf '#!/bin/sh\ncat >"%s/new.%s" && mv "%s/new.%s" "%s/told/%s"\necho "{}"\n' \
        "$TMP" $event "$TMP" $event "$TMP" $event >"$TMP/.cline/hooks/$event.sh"
    chmod 644 "$TMP/.cline/hooks/$event.sh"
done
run cline auth openai -k k -m scripted -b "$BASE/v1"
run cline --json --auto-approve true "the first-question"
for _ in $(seq 100); do [ -s "$TMP/told/TaskComplete" ] && break; sleep 0.1; done

python3 - "$TMP/told" <<'PY'
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
