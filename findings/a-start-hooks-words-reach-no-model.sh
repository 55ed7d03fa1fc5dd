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
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
run() { timeout 120 "$@" </dev/null >>"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }; }

npm install --silent --no-save --prefix "$work" \
    node@24.21.0 @moonshot-ai/kimi-code@2.1.0 @aaif/goose-binary-linux-x64@1.52.0 >/dev/null
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq hermes-agent==0.19.0
export HOME=$work PATH=$work/venv/bin:$work/node_modules/.bin:$PATH TMPDIR=$work
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME HERMES_HOME KIMI_CODE_HOME

echo '{}' >"$work/script.json"
python3 "$here/scripted_chat.py" "$work/script.json" "$work" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done
base=http://127.0.0.1:$(cat "$work/port")

# The hook answers in each agent's form: `hook AGENT EVENT`.
cat >"$work/hook" <<'PY'
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
chmod +x "$work/hook"
mkdir -p "$work/project" "$work/.kimi-code" "$work/.hermes" "$work/.agents/plugins/memory/hooks"

cat >"$work/.kimi-code/config.toml" <<TOML
default_model = "s/m"
telemetry = false
[providers.s]
type = "openai"
base_url = "$base/v1"
api_key = "k"
[models."s/m"]
provider = "s"
model = "scripted"
max_context_size = 200000
capabilities = ["tool_use"]
[[hooks]]
event = "SessionStart"
command = "$work/hook kimi SessionStart"
[[hooks]]
event = "UserPromptSubmit"
command = "$work/hook kimi UserPromptSubmit"
TOML
echo '{"name": "memory", "version": "1.0.0"}' >"$work/.agents/plugins/memory/plugin.json"
cat >"$work/.agents/plugins/memory/hooks/hooks.json" <<JSON
{"hooks": {
 "SessionStart": [{"hooks": [{"type": "command", "command": "$work/hook goose SessionStart"}]}],
 "UserPromptSubmit": [{"hooks": [{"type": "command", "command": "$work/hook goose UserPromptSubmit"}]}]}}
JSON
cat >"$work/.hermes/config.yaml" <<YAML
model: {default: scripted, provider: custom, base_url: "$base/v1", api_key: none}
security: {tirith_enabled: false}
hooks:
  on_session_start: [{command: "$work/hook hermes on_session_start"}]
  pre_llm_call: [{command: "$work/hook hermes pre_llm_call"}]
YAML
export OPENAI_API_KEY=k OPENAI_HOST=$base GOOSE_DISABLE_KEYRING=1 HERMES_ACCEPT_HOOKS=1
export GOOSE_PROVIDER=openai GOOSE_MODEL=scripted GOOSE_MODE=auto

cd "$work/project"
run kimi -p "kimi says hello"
run "$work/node_modules/@aaif/goose-binary-linux-x64/bin/goose" run -t "goose says hello"
run hermes chat -Q -q "hermes says hello"

python3 - "$work" <<'PY'
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
if grep -q "remembered at .*[sS]ession_\?[sS]tart" "$work/log"; then echo "changed: it is shown now"; exit 1; fi
echo "as found: what was said at the start reached no model"
