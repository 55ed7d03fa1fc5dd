# Sourced by the findings that use scripted_chat.py: a temporary folder, the packages, the server.
#
# It sets TMP (removed at the end) and goes to TMP/project. Then, in this order: install_npm or
# install_pip, start_server, set_up_AGENT, and what the agent is told, with run.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TMP=$(mktemp -d)
PIDS=()
trap finish EXIT
mkdir "$TMP/project"
cd "$TMP/project" || exit
export TMPDIR=$TMP
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME

# finish: ends what end_later was told of, and the process that Cline leaves behind.
finish() {
    local pid hub=$TMP/.cline/data/locks/hub/production.json
    [ ! -s "$hub" ] ||
        end_later "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["pid"])' "$hub")"
    for pid in "${PIDS[@]}"; do
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.1; done
    done
    cd /
    rm -rf "$TMP" || { sleep 3; rm -rf "$TMP"; }
}

# end_later PID: a process to be ended with the script.
end_later() { PIDS+=("$1"); }

# install_npm PACKAGE@VERSION...: from npm, into the temporary folder; their commands are in PATH.
install_npm() {
    npm install --silent --no-save --prefix "$TMP" "$@" >/dev/null
    PATH=$TMP/node_modules/.bin:$PATH
}

# install_pip PACKAGE==VERSION...: from PyPI, for PYTHON (python3); their commands are in PATH.
install_pip() {
    "${PYTHON:-python3}" -m venv "$TMP/venv"
    "$TMP/venv/bin/pip" install -qq "$@"
    PATH=$TMP/venv/bin:$PATH
}

# start_server: it answers from the script that comes in; sets BASE, and HOME, which is TMP.
start_server() {
    cat >"$TMP/script.json"
    python3 "$HERE/scripted_chat.py" "$TMP/script.json" "$TMP" &
    end_later $!
    until [ -s "$TMP/port" ]; do sleep 0.1; done
    BASE=http://127.0.0.1:$(cat "$TMP/port")
    export HOME=$TMP
}

# run COMMAND...: without input; it has to succeed within three minutes. Its output is in TMP/log.
run() { timeout 180 "$@" </dev/null >>"$TMP/log" 2>&1 || { tail -n 20 "$TMP/log"; exit 1; }; }

# What follows needs BASE. LINES are added to the agent's configuration.

# set_up_continue [LINES]: for `cn --config "$HOME/.continue/config.yaml"`.
set_up_continue() {
    mkdir "$HOME/.continue"
    cat >"$HOME/.continue/config.yaml" <<YAML
name: t
version: 1.0.0
schema: v1
models:
  - {name: m, provider: openai, model: scripted, apiBase: "$BASE/v1", apiKey: k, capabilities: [tool_use]}
${1:-}
YAML
}

# set_up_goose [LINES]: for goose from npm, which is put in PATH.
set_up_goose() {
    PATH=$TMP/node_modules/@aaif/goose-binary-linux-x64/bin:$PATH
    export OPENAI_API_KEY=k OPENAI_HOST=$BASE GOOSE_DISABLE_KEYRING=1
    export GOOSE_PROVIDER=openai GOOSE_MODEL=scripted GOOSE_MODE=auto
    [ -z "${1:-}" ] || { mkdir -p "$HOME/.config/goose"; echo "$1" >"$HOME/.config/goose/config.yaml"; }
}

# set_up_gptme: for `gptme -n -m local/scripted`.
set_up_gptme() {
    export OPENAI_BASE_URL=$BASE/v1 OPENAI_API_KEY=k
    export GPTME_TIKTOKEN_TIMEOUT=0  # no download of a tokenizer
    mkdir -p "$HOME/.config/gptme"
    printf '[prompt]\nabout_user = "A programmer."\n' >"$HOME/.config/gptme/config.toml"
}

# set_up_hermes [LINES]: for `hermes chat`.
set_up_hermes() {
    unset HERMES_HOME
    mkdir "$HOME/.hermes"
    cat >"$HOME/.hermes/config.yaml" <<YAML
model: {default: scripted, provider: custom, base_url: "$BASE/v1", api_key: none}
security: {tirith_enabled: false}
${1:-}
YAML
}

# set_up_kimi [LINES]: for `kimi`.
set_up_kimi() {
    unset KIMI_CODE_HOME
    mkdir "$HOME/.kimi-code"
    cat >"$HOME/.kimi-code/config.toml" <<TOML
default_model = "s/m"
telemetry = false
[providers.s]
type = "openai"
base_url = "$BASE/v1"
api_key = "k"
[models."s/m"]
provider = "s"
model = "scripted"
max_context_size = 200000
capabilities = ["tool_use"]
${1:-}
TOML
}

# set_up_llm: for `llm -m scripted`, which keeps its files in TMP/llm.
set_up_llm() {
    export LLM_USER_PATH=$TMP/llm OPENAI_API_KEY=k
    mkdir "$TMP/llm"
    cat >"$TMP/llm/extra-openai-models.yaml" <<YAML
- {model_id: scripted, model_name: scripted, api_base: "$BASE/v1"}
YAML
}

# set_up_opencode [MEMBERS]: for `opencode`; the members of the object end in a comma.
set_up_opencode() {
    OPENCODE_CONFIG_CONTENT=$(cat <<JSON
{"model": "s/scripted", "autoupdate": false, "permission": "allow", ${1:-}
 "provider": {"s": {"npm": "@ai-sdk/openai-compatible", "models": {"scripted": {}},
                    "options": {"baseURL": "$BASE/v1", "apiKey": "k"}}}}
JSON
    )
    export OPENCODE_CONFIG_CONTENT
}

# set_up_pi: for `pi --provider s --model scripted`.
set_up_pi() {
    mkdir -p "$HOME/.pi/agent"
    cat >"$HOME/.pi/agent/models.json" <<JSON
{"providers": {"s": {"baseUrl": "$BASE/v1", "api": "openai-completions", "apiKey": "k",
 "models": [{"id": "scripted", "contextWindow": 200000, "maxTokens": 4000}]}}}
JSON
}
