#!/usr/bin/env bash
# A Codex thread that was taken back to an earlier turn goes on in a second file; the first lives on.
#
# One would guess: going back (`thread/revert` of the app server, Esc Esc in the terminal) marks the turn
# in the thread's one file or cuts it off; a thread is a file.
# What happens (0.171.0, 2026-11-28): the first file keeps the turn, gets no mark, and is never written
# again. What follows is in a second one, named with the thread's id, `_` and another id, whose first
# line points into the first (`history_base`) and has the thread's id again. With both, the thread
# resumes without the turn taken back. With the first alone it resumes just the same, exit status 0,
# and the model is sent that turn. The second alone is refused.
# Why it matters: a backup or an archive with one file per thread id keeps the branch that was
# given up, and nothing tells; what came after is lost or overwrites it.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
set_up_codex

# Two turns, then back to before the second, then another: what its editor extensions do.
cat >"$TMP/client.py" <<'END'
import json, subprocess, sys
server = subprocess.Popen(["codex", "app-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
seen = []

def send(**message):
    server.stdin.write(json.dumps(message) + "\n")
    server.stdin.flush()

def read(wanted):
    for line in server.stdout:
        message = json.loads(line)
        if wanted(message):
            return message
    sys.exit("the server ended")

def call(number, method, **params):
    send(id=number, method=method, params=params)
    answer = read(lambda message: message.get("id") == number)
    return answer.get("result") or sys.exit(f"{method}: {answer}")

def turn(number, text):
    started = call(number, "turn/start", threadId=thread, input=[{"type": "text", "text": text}])
    read(lambda message: message.get("method") == "turn/completed")
    return started["turn"]["id"]

call(1, "initialize", clientInfo={"name": "client", "title": "Client", "version": "1"},
     capabilities={"experimentalApi": True})
send(method="initialized")
thread = call(2, "thread/start")["thread"]["id"]
turn(3, "The harbour opens at six.\nSAY Understood.")
second = turn(4, "It closes at ten.\nSAY Understood.")
call(5, "thread/revert", threadId=thread, beforeTurnId=second)
turn(6, "It closes at nine.\nSAY Understood.")
server.stdin.close()
server.wait(20)
END
run python3 "$TMP/client.py"
sessions=$HOME/.codex/sessions
second=$(find "$sessions" -name '*_*.jsonl')
first=$(find "$sessions" -name '*.jsonl' ! -samefile "$second")
thread=$(basename "$first" .jsonl | tail -c 37)
mkdir "$TMP/kept"
cp "$first" "$second" "$TMP/kept"

# keep FILE...: a Codex that has these files of the thread alone, and no database.
keep() {
    rm -rf "$sessions" "$HOME"/.codex/*.sqlite*
    mkdir -p "$(dirname "$first")"
    for file in "$@"; do cp "$TMP/kept/$(basename "$file")" "$file"; done
    forget
}

# resume THREAD: go on with it; its exit status and what the model was shown.
resume() {
    status=0
    codex exec resume "$1" $'And on Sundays?\nSAY It stays closed.' || status=$?
    shown=
    for word in six ten nine; do
        count=$(grep -F 'on Sundays' "$TMP/requests.jsonl" | grep -cE "(opens|closes) at $word" || true)
        [ "$count" = 0 ] || shown+=" $word"
    done
    echo "$status,$shown"
}

expect "the second file is of thread" "$(basename "$second" | grep -oF -- "-${thread}_" | tr -d _-)" "$(echo "$thread" | tr -d -)"
expect "marks of it in the first" "$(grep -cE 'revert|roll.?back|history_base|closes at nine' "$first" || true)" 0
expect "the first has the turn taken back" "$(grep -q 'closes at ten' "$first" && echo yes)" yes
keep "$first" "$second"
expect "both files: status, turns shown" "$(resume "$thread")" "0, six nine"
keep "$first"
expect "the first alone: status, turns shown" "$(resume "$thread")" "0, six ten"
keep "$second"
expect "the second alone: status, turns shown" "$(resume "$thread")" "1,"
expect "of which it says" "$(grep -oF 'missing source rollout' "$TMP/output" | head -n 1)" "missing source rollout"
echo "As stated: one of two files is a whole thread, and the wrong one."
