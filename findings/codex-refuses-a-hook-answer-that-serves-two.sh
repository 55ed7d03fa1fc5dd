#!/usr/bin/env bash
# Codex throws a hook's whole answer away when it has a key for another assistant in it.
#
# One would guess: an answer may carry `additionalContext` at the top, where GitHub Copilot CLI reads it,
# beside `hookSpecificOutput`, where the others do; each takes its own and ignores the rest.
# What happens (Codex 0.171.0; Copilot CLI 1.0.102, Gemini CLI 0.61.0, Qwen Code 0.24.4; 2026-11-28):
# the other three do just that. Codex says "SessionStart Failed", exits with 0, and the model is
# told nothing; plain text, which is no JSON at all, it would take.
# Why it matters: there is no one answer for all assistants. A memory has to know who asks, or its
# brief is missing in one of them, and only a line among the session's output says so.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
install @github/copilot@1.0.102
install @google/gemini-cli@0.61.0
install @qwen-code/qwen-code@0.24.4
set_up_codex

hook="{\"type\": \"command\", \"command\": \"cat '$TMP/answer'\"}"
write .codex/hooks.json <<<"{\"hooks\": {\"SessionStart\": [{\"hooks\": [$hook]}]}}"
write .qwen/settings.json <<<"{\"hooks\": {\"SessionStart\": [{\"hooks\": [$hook]}]}}"
write .gemini/settings.json <<END
{"security": {"auth": {"selectedType": "gemini-api-key"}}, "hooks": {"SessionStart": [{"hooks": [$hook]}]}}
END
write .copilot/hooks/brief.json <<END
{"version": 1, "hooks": {"SessionStart": [{"type": "command", "bash": "cat '$TMP/answer'"}]}}
END

# session COMMAND...: run it; says whether the model was told.
session() {
    forget
    "$@" "SAY done"
    grep -qF 'harbour opens at six' "$TMP/requests.jsonl" && echo told || echo "not told"
}

text='"additionalContext": "The harbour opens at six."'
own="\"hookSpecificOutput\": {\"hookEventName\": \"SessionStart\", $text}"
echo "{$own}" >"$TMP/answer"
expect "Codex, hookSpecificOutput alone" "$(session codex exec --dangerously-bypass-hook-trust)" told
echo "The harbour opens at six." >"$TMP/answer"
expect "Codex, plain text" "$(session codex exec --dangerously-bypass-hook-trust)" told

echo "{$text, $own}" >"$TMP/answer"
expect "both keys, GitHub Copilot CLI" "$(session copilot --allow-all-tools -p)" told
expect "both keys, Gemini CLI" "$(session gemini --prompt)" told
expect "both keys, Qwen Code" "$(session qwen --prompt)" told
expect "both keys, Codex" "$(session codex exec --dangerously-bypass-hook-trust)" "not told"
expect "of which it says" "$(grep -oF 'SessionStart Failed' "$TMP/output" | head -n 1)" "SessionStart Failed"
echo "As stated: Codex alone refuses the answer for two."
