#!/usr/bin/env bash
# A Codex hook that was approved is skipped, without a word, once another hook is put before it.
#
# One would guess: what is approved is the command; where it stands in hooks.json says nothing about it.
# What happens (0.171.0, 2026-11-28): the approval is kept in config.toml under the file's path, the event
# and the hook's place in the list, with a hash. With another hook put before it, that one counts as
# the approved one "modified", and the approved one as new: neither is run. With the other put behind
# it, it runs on. `codex exec` says nothing of either, and exits with 0.
# Why it matters: a program that adds its hook at the front silences the user's own; one whose hook
# stood first is silenced by the next. Scripted runs go on without a memory, and no log tells.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
set_up_codex "[projects.\"$WORK\"]
trust_level = \"trusted\""

# What a user does: start `codex` in the terminal, at "Hooks need review" choose "2. Trust all and continue".
cat >"$TMP/approve.py" <<'END'
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("codex", ["codex", "--no-daemon"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
screen, chosen, end = b"", False, time.time() + 40
while time.time() < end:
    if select.select([terminal], [], [], 1)[0]:
        try:
            new = os.read(terminal, 65536)
        except OSError:
            break
        screen += new
        if b"\x1b[6n" in new:
            os.write(terminal, b"\x1b[1;1R")
    if not chosen and b"Trustall" in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\s", b"", screen):
        time.sleep(2)
        os.write(terminal, b"2")
        time.sleep(1)
        os.write(terminal, b"\r")
        chosen, end = True, time.time() + 6
    path = os.path.expanduser("~/.codex/config.toml")
    if chosen and "trusted_hash" in open(path).read():
        break
time.sleep(1)
os.kill(pid, signal.SIGTERM)
time.sleep(1)
os.write(2, screen[-3000:])
sys.exit(not chosen)
END

# The app server's `hooks/list`.
cat >"$TMP/client.py" <<'END'
import json, os, subprocess, sys
server = subprocess.Popen(["codex", "app-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def call(number, method, **params):
    server.stdin.write(json.dumps({"id": number, "method": method, "params": params}) + "\n")
    server.stdin.flush()
    for line in server.stdout:
        message = json.loads(line)
        if message.get("id") == number:
            return message.get("result") or sys.exit(f"{method}: {message}")
    sys.exit("the server ended")

call(1, "initialize", clientInfo={"name": "client", "title": "Client", "version": "1"})
server.stdin.write('{"method": "initialized"}\n')
for hook in call(2, "hooks/list", cwds=[os.getcwd()])["data"][0]["hooks"]:
    print(hook["command"].split()[1], hook["trustStatus"])
server.stdin.close()
server.wait(20)
END

# hooks NAME...: a SessionStart hook for each, in this order.
hooks() {
    list=
    for name in "$@"; do
        list+="${list:+, }{\"type\": \"command\", \"command\": \"echo $name >>'$TMP/called'\"}"
    done
    write .codex/hooks.json <<<"{\"hooks\": {\"SessionStart\": [{\"hooks\": [$list]}]}}"
}

# called: the hooks that a session ran, and what it said of hooks otherwise.
called() {
    : >"$TMP/called"
    codex exec "SAY done"
    echo "$(sort "$TMP/called" | tr '\n' ' ')and$(grep -i 'hook' "$TMP/output" | grep -vi 'hook: SessionStart' || echo ' nothing else')"
}

# status: each hook's, as Codex sees it.
status() { run python3 "$TMP/client.py"; grep -E '^(memory|other) ' "$TMP/output" | tr '\n' ';'; }

hooks memory
expect "new" "$(status)" "memory untrusted;"
run TERM=xterm-256color python3 "$TMP/approve.py" || { cat "$TMP/output"; exit 1; }
expect "approved" "$(status)" "memory trusted;"
expect "a session runs" "$(called)" "memory and nothing else"
hooks memory other
expect "one put behind it" "$(status)" "memory trusted;other untrusted;"
expect "a session runs" "$(called)" "memory and nothing else"
hooks other memory
expect "one put before it" "$(status)" "other modified;memory untrusted;"
expect "a session runs" "$(called)" "and nothing else"
hooks memory
expect "alone again" "$(status)" "memory trusted;"
echo "As stated: the place in the list is part of what is approved."
