# Sourced by every finding here: a temporary home, the scripted model, the five agents.
#
# It sets TMP (removed at the end; HOME is inside), WORK (an empty git repository, where it
# goes) and PORT (the scripted model's, and /mcp). An agent sees none of the caller's variables.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TMP=$(mktemp -d)
WORK=$TMP/work/notes
export HOME=$TMP/home
mkdir -p "$HOME" "$WORK"
cd "$WORK" || exit
git init -q .
echo '{}' >"$TMP/mcp.json"
python3 "$HERE/scripted_model.py" "$TMP" &
SERVER=$!
trap 'kill "$SERVER"; cd /; rm -rf "$TMP" || { sleep 3; rm -rf "$TMP"; }' EXIT
for _ in $(seq 100); do [ -s "$TMP/port" ] && break; sleep 0.1; done
PORT=$(cat "$TMP/port")
BASE=http://127.0.0.1:$PORT

# install PACKAGE@VERSION: from npm, into the temporary folder.
install() {
    echo "installing $1"
    npm install --prefix "$TMP/npm" --no-audit --no-fund --loglevel=error "$1" >"$TMP/npm.log" 2>&1 ||
        { cat "$TMP/npm.log"; exit 2; }
}

# run NAME=VALUE... COMMAND...: an installed agent with a clean environment; INPUT names its input.
run() {
    env -i PATH="$TMP/npm/node_modules/.bin:$PATH" HOME="$HOME" TMPDIR="$TMP" TERM=dumb LANG=C.UTF-8 \
        "$@" <"${INPUT:-/dev/null}" >"$TMP/output" 2>&1
}

codex() { run codex "$@"; }
claude() { run ANTHROPIC_BASE_URL="$BASE" ANTHROPIC_API_KEY=none ENABLE_TOOL_SEARCH=false \
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 claude "$@"; }
gemini() { run GOOGLE_GEMINI_BASE_URL="$BASE" GEMINI_API_KEY=none GEMINI_CLI_TRUST_WORKSPACE=true \
    GEMINI_MODEL=gemini-3-pro-preview gemini "$@"; }
qwen() { run OPENAI_BASE_URL="$BASE/v1" OPENAI_API_KEY=none OPENAI_MODEL=stand-in \
    qwen --auth-type openai "$@"; }
copilot() { run COPILOT_PROVIDER_BASE_URL="$BASE/v1" COPILOT_MODEL=stand-in COPILOT_OFFLINE=true \
    copilot "$@"; }

# set_up_codex [LINES]: Codex has no variable for its provider; the lines are added to its file.
set_up_codex() {
    mkdir -p "$HOME/.codex"
    cat >"$HOME/.codex/config.toml" <<END
model = "stand-in"
model_provider = "local"
[model_providers.local]
name = "local"
base_url = "$BASE/v1"
wire_api = "responses"
${1:-}
END
}

# write FILE: what comes in, with PORT filled in, into a file below HOME.
write() {
    mkdir -p "$(dirname "$HOME/$1")"
    sed "s/PORT/$PORT/g" >"$HOME/$1"
}

# results: what tools returned, as the model was last told, one JSON a line.
results() { python3 "$HERE/scripted_model.py" "$TMP" results; }

# forget: what was asked so far is no longer of interest.
forget() { : >"$TMP/requests.jsonl"; }

# expect WHAT SEEN EXPECTED: print what was seen; stop if it is something else.
expect() {
    printf '%s: %s\n' "$1" "$2"
    [ "$2" = "$3" ] && return
    printf 'CHANGED, expected: %s\n' "$3"
    tail -n 20 "$TMP/output"
    exit 1
}
