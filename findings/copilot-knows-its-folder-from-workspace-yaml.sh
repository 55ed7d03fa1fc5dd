#!/usr/bin/env bash
# GitHub Copilot CLI knows a session's folder from workspace.yaml alone, though events.jsonl names it.
#
# One would guess: a session is what its log says; if parts of it are lost it is refused, or goes on in
# the folder that `session.start` in events.jsonl names, as one that is whole does.
# What happens (1.0.102, 2026-11-28): events.jsonl alone, without workspace.yaml and the database, is
# resumed without a word, the whole conversation with it, and its tools work where it was called,
# not in the folder it began in. The first folder still exists and stands in the first line.
# Why it matters: which files a backup has decides where a resumed session writes; an archive that
# files it by its first line is right with one and wrong with the other.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @github/copilot@1.0.102
mkdir "$TMP/work/elsewhere"

# folder: the one that the last command printed, without what is before it.
folder() { results | tail -n 1 | grep -oE 'work/(notes|elsewhere)'; }

copilot --allow-all-tools -p $'The harbour opens at six.\nCALL bash {"command": "pwd", "description": "Where"}\nSAY done'
expect "begun in" "$(folder)" work/notes
session=$(ls "$HOME/.copilot/session-state")
cp -r "$HOME/.copilot" "$TMP/kept"
cd "$TMP/work/elsewhere"

# resume: go on with it here; where its tools work, and whether the model was shown the first prompt.
resume() {
    forget
    copilot --allow-all-tools --resume="$session" -p $'And when does it close?\nCALL bash {"command": "pwd", "description": "Where"}\nSAY done'
    echo "$(folder), $(grep -F 'when does it close' "$TMP/requests.jsonl" | grep -cF 'harbour opens at six' | sed 's/[1-9].*/yes/')"
}

# only FILE...: have these files of the session alone.
only() {
    rm -rf "$HOME/.copilot/session-state" "$HOME"/.copilot/session-store.db*
    mkdir -p "$HOME/.copilot/session-state/$session"
    for file in "$@"; do cp "$TMP/kept/session-state/$session/$file" "$HOME/.copilot/session-state/$session/"; done
}

only events.jsonl workspace.yaml
expect "both files, resumed elsewhere: works in, first prompt seen" "$(resume)" "work/notes, yes"
only events.jsonl
expect "the log alone, resumed elsewhere: works in, first prompt seen" "$(resume)" "work/elsewhere, yes"
expect "its first line names" "$(head -n 1 "$HOME/.copilot/session-state/$session/events.jsonl" |
    grep -oE '"cwd":"[^"]*"' | grep -oE 'work/[a-z]+')" work/notes
echo "As stated: workspace.yaml decides."
