#!/usr/bin/env bash
# `gemini hooks migrate --from-claude` copies a timeout of 10 seconds as one of 10 milliseconds.
#
# One would guess: a command made to bring hooks over from Claude Code, where `timeout` counts
# seconds, writes what Gemini CLI, where it counts milliseconds, needs for the same time.
# What happens (0.61.0, 2026-11-27): it reports success and writes the number as it was. Every
# hook that takes longer than ten milliseconds, so every one that starts an interpreter, is
# stopped; the session goes on and its exit status is 0.
# Why it matters: a memory's hooks, working in Claude Code, are imported and then never finish: no
# session is brought back at the start, none is archived at the end.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @google/gemini-cli@0.61.0
write .gemini/settings.json <<<'{"security": {"auth": {"selectedType": "gemini-api-key"}}}'
mkdir .claude
cat >.claude/settings.json <<END
{"hooks": {"SessionStart": [{"hooks": [{"type": "command", "timeout": 10,
                                        "command": "sleep 1; touch '$TMP/finished'"}]}]}}
END

gemini hooks migrate --from-claude
expect "it says" "$(grep -o 'Hooks successfully migrated' "$TMP/output")" "Hooks successfully migrated"
expect "Claude Code's 10 seconds became" "$(grep -o '"timeout": [0-9]*' .gemini/settings.json)" '"timeout": 10'
status=0
gemini --prompt "SAY done" || status=$?
expect "exit status" "$status" 0
expect "of the hook it says" "$(grep -om 1 'Hook timed out after 10ms' "$TMP/output")" "Hook timed out after 10ms"
expect "hooks that finished" "$(find "$TMP" -maxdepth 1 -name finished | wc -l)" 0

sed -i 's/"timeout": 10$/"timeout": 10000/' .gemini/settings.json
gemini --prompt "SAY done"
expect "with 10000 instead" "$(find "$TMP" -maxdepth 1 -name finished | wc -l)" 1
echo "As stated: the imported timeout is a thousandth of the original."
