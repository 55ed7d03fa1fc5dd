#!/usr/bin/env bash
# Codex without the variable that should hold an MCP server's token says nothing, in two ways.
#
# One would guess: `codex exec` warns, or fails; and it is one behaviour for both settings that take
# a header from the environment.
# What happens (0.171.0, 2026-11-27): with `bearer_token_env_var` and the variable unset, the server is
# never contacted; with `env_http_headers`, it is contacted without the header, and is used
# if it answers. Neither prints a line about it; the exit status is 0. Only `required = true` in the
# server's entry turns the first into an error.
# Why it matters: editors and desktops start Codex without a shell's variables. A memory is then
# missing from the session, or asked anonymously, and its user notices weeks later.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

install @openai/codex@0.171.0
cat >"$TMP/mcp.json" <<'END'
{"tools/list": {"tools": [{"name": "find", "description": "Find", "inputSchema": {"type": "object"}}]}}
END

# session LINES...: one with these lines in the server's entry; says how it went.
session() {
    forget
    set_up_codex "$(printf '%s\n' "[mcp_servers.box]" "url = '$BASE/mcp'" "$@")"
    status=0
    codex exec "SAY done" || status=$?
    asked=$(grep -c '"/mcp"' "$TMP/requests.jsonl" || true)
    authorized=$(grep '"/mcp"' "$TMP/requests.jsonl" | grep -ci '"authorization"' || true)
    said=$(grep -ciE 'BOX_TOKEN|mcp|\bbox\b' "$TMP/output" || true)
}

session "bearer_token_env_var = 'BOX_TOKEN'"
expect "bearer_token_env_var: requests, lines said, exit status" "$asked, $said, $status" "0, 0, 0"
session "env_http_headers = { Authorization = 'BOX_TOKEN' }"
expect "env_http_headers: requests, with token, lines said, exit status" \
    "$asked, $authorized, $said, $status" "3, 0, 0, 0"
session "bearer_token_env_var = 'BOX_TOKEN'" "required = true"
expect "required: requests, names the variable, exit status" \
    "$asked, $(grep -om 1 'variable BOX_TOKEN' "$TMP/output" | head -n 1), $status" "0, variable BOX_TOKEN, 1"
echo "As stated: silence, and not the same silence."
