#!/usr/bin/env bash
# Gemini CLI and Qwen Code turn < and > of a hook's context into &lt; and &gt;, and leave & as it is.
#
# One would guess: `additionalContext` is text for the model and reaches it as it is, as in Codex and
# GitHub Copilot CLI; or it is escaped so that it can be turned back.
# What happens (Gemini CLI 0.61.0, Qwen Code 0.24.4; 2026-11-28): the two characters are replaced, the
# ampersand is not. So "<b>" and "&lt;b&gt;" arrive as the same, and code comes out changed:
# "a < b && c -> d" is read as "a &lt; b && c -&gt; d".
# Why it matters: a memory's brief that holds code, HTML, generics or mail addresses is given to the
# model falsified, and no one can tell later what was meant; tags that mark parts of it are none.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
install @qwen-code/qwen-code@0.24.4
install @openai/codex@0.171.0
install @github/copilot@1.0.102
set_up_codex

text='Begin a < b && c -> d, <b> is not &lt;b&gt; End'
echo "{\"hookSpecificOutput\": {\"hookEventName\": \"SessionStart\", \"additionalContext\": \"$text\"}}" >"$TMP/answer"
echo "{\"additionalContext\": \"$text\"}" >"$TMP/copilot"
hook="{\"type\": \"command\", \"command\": \"cat '$TMP/answer'\"}"
write .gemini/settings.json <<END
{"security": {"auth": {"selectedType": "gemini-api-key"}}, "hooks": {"SessionStart": [{"hooks": [$hook]}]}}
END
write .qwen/settings.json <<<"{\"hooks\": {\"SessionStart\": [{\"hooks\": [$hook]}]}}"
write .codex/hooks.json <<<"{\"hooks\": {\"SessionStart\": [{\"hooks\": [$hook]}]}}"
write .copilot/hooks/brief.json <<END
{"version": 1, "hooks": {"SessionStart": [{"type": "command", "bash": "cat '$TMP/copilot'"}]}}
END

# told: the text as the model got it.
told() {
    python3 -c 'import json, re, sys
def texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)
found = {part for line in open(sys.argv[1]) for text in texts(json.loads(line)["body"])
         for part in re.findall("Begin a .* End", text)}
print(" | ".join(found))' "$TMP/requests.jsonl"
    forget
}

codex exec --dangerously-bypass-hook-trust "SAY done"
expect "Codex" "$(told)" "$text"
copilot --allow-all-tools -p "SAY done"
expect "GitHub Copilot CLI" "$(told)" "$text"
gemini --prompt "SAY done"
expect "Gemini CLI" "$(told)" 'Begin a &lt; b && c -&gt; d, &lt;b&gt; is not &lt;b&gt; End'
qwen --prompt "SAY done"
expect "Qwen Code" "$(told)" 'Begin a &lt; b && c -&gt; d, &lt;b&gt; is not &lt;b&gt; End'
echo "As stated: escaped, and not to be turned back."
