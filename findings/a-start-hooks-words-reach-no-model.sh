#!/usr/bin/env bash
# Guess: what a hook prints at the start of a session is put before the model, as Claude Code does
# it, after which such hooks are made; so it is the place to give a model its memory.
# Found: Kimi Code 2.1.0 and goose 1.52.0 (SessionStart) and Hermes 0.19.0 (on_session_start) run
# the hook and drop what it prints: it is in no request, and no word is said of it. Kimi and
# Hermes do pass on what the hook before each prompt prints (UserPromptSubmit, pre_llm_call);
# goose drops that, too. (2026-11-28; OpenHands 1.16.0 was seen to do as Kimi does.)
# It matters to a memory that hands over at the start what was noted before: the hook runs, exits
# with 0, and the model begins as if nothing had ever been remembered.
# Needs Python 3.11, 3.12 or 3.13.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm node@24.21.0 @moonshot-ai/kimi-code@2.1.0 @aaif/goose-binary-linux-x64@1.52.0
install_pip hermes-agent==0.19.0
start_server <<<'{}'

# The hook answers in each agent's form: `hook AGENT EVENT`.
cat >"$TMP/hook" <<'PY'
#!/usr/bin/env python3
import json, os, sys
agent, event = sys.argv[1:]
said = f"remembered at {event}"
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ran"), "a") as file:
    file.write(f"{agent} {event}\n")
claude = {"hookSpecificOutput": {"hookEventName": event, "additionalContext": said}}
forms = {"kimi": said, "hermes": json.dumps({"context": said}),
         "goose": json.dumps({"additionalContext": said, **claude})}
print(forms[agent])
PY
chmod +x "$TMP/hook"
set_up_kimi "[[hooks]]
event = 'SessionStart'
command = '$TMP/hook kimi SessionStart'
[[hooks]]
event = 'UserPromptSubmit'
command = '$TMP/hook kimi UserPromptSubmit'"
mkdir -p "$TMP/.agents/plugins/memory/hooks"
echo '{"name": "memory", "version": "1.0.0"}' >"$TMP/.agents/plugins/memory/plugin.json"
cat >"$TMP/.agents/plugins/memory/hooks/hooks.json" <<JSON
{"hooks": {
 "SessionStart": [{"hooks": [{"type": "command", "command": "$TMP/hook goose SessionStart"}]}],
 "UserPromptSubmit": [{"hooks": [{"type": "command", "command": "$TMP/hook goose UserPromptSubmit"}]}]}}
JSON
set_up_goose
set_up_hermes "hooks:
  on_session_start: [{command: $TMP/hook hermes on_session_start}]
  pre_llm_call: [{command: $TMP/hook hermes pre_llm_call}]"
export HERMES_ACCEPT_HOOKS=1

run kimi -p "kimi says hello"
run goose run -t "goose says hello"
run hermes chat -Q -q "hermes says hello"

python3 - "$TMP" <<'PY'
import json, sys
ran = open(f"{sys.argv[1]}/ran").read().splitlines()
bodies = [json.dumps(json.loads(line)["body"]) for line in open(f"{sys.argv[1]}/requests.jsonl")]
prompts = {"kimi": "UserPromptSubmit", "goose": "UserPromptSubmit", "hermes": "pre_llm_call"}
for agent, start in {"kimi": "SessionStart", "goose": "SessionStart", "hermes": "on_session_start"}.items():
    asked = [body for body in bodies if f"{agent} says hello" in body]
    for event in (start, prompts[agent]):
        told = sum(f"remembered at {event}" in body for body in asked)
        print(f"{agent}: {event} ran {ran.count(f'{agent} {event}')} time(s),",
              f"its words are in {told} of {len(asked)} requests")
        if not asked or f"{agent} {event}" not in ran:
            sys.exit("changed: a hook no longer runs")
        if bool(told) != (event != start and agent != "goose"):
            sys.exit("changed: which hook's words reach the model")
PY
if grep -q "remembered at .*[sS]ession_\?[sS]tart" "$TMP/log"; then echo "changed: it is shown now"; exit 1; fi
echo "as found: what was said at the start reached no model"
