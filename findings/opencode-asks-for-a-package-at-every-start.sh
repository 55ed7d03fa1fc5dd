#!/usr/bin/env bash
# Guess: opencode asks the npm registry for what the configuration names (a plugin, a provider's
# package), once; without a plugin, and offline, it asks for nothing.
# Found: opencode 1.18.33 wants `@opencode-ai/plugin` in each of its configuration folders, the user's
# (which it creates) and a project's .opencode/, be there a plugin or not: one request for each
# at every start, for as long as none is answered with the package, and nothing is said of it.
# Once it is answered, package.json, package-lock.json and node_modules/ are put there, and it
# asks no more. (2026-11-28; the registry here is a stand-in on this machine.)
# It matters to whoever writes a file into these folders, as a memory's plugin is: a folder
# .opencode/ in a project is no longer one file, starts on a closed network keep asking, and a
# plugin that needs no package does not keep packages away.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/chat.bash"

install_npm opencode-ai@1.18.33

# The registry: an empty package of the name asked for, if there is a file `open`, else 404.
mkdir "$TMP/registry"
cat >"$TMP/registry.py" <<'PY'
import base64, hashlib, http.server, io, json, os, sys, tarfile, urllib.parse
folder = sys.argv[1]
name, version = "@opencode-ai/plugin", "1.18.33"
manifest = json.dumps({"name": name, "version": version}).encode()
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    entry = tarfile.TarInfo("package/package.json")
    entry.size = len(manifest)
    tar.addfile(entry, io.BytesIO(manifest))
package = buffer.getvalue()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.unquote(self.path)
        with open(f"{folder}/asked", "a") as log:
            log.write(path + "\n")
        found = os.path.exists(f"{folder}/open") and path.startswith("/" + name)
        if path.endswith(".tgz"):
            body = package
        else:
            digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
            dist = {"tarball": f"http://127.0.0.1:{self.server.server_port}/{name}/-/plugin.tgz",
                    "integrity": f"sha512-{digest}"}
            body = json.dumps({"name": name, "dist-tags": {"latest": version}, "versions": {
                version: {"name": name, "version": version, "dist": dist}}}).encode()
        body = body if found else b"{}"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(f"{folder}/new", "w") as file:
    file.write(str(server.server_port))
os.replace(f"{folder}/new", f"{folder}/port")
server.serve_forever()
PY
python3 "$TMP/registry.py" "$TMP/registry" &
end_later $!
until [ -s "$TMP/registry/port" ]; do sleep 0.1; done
echo "registry=http://127.0.0.1:$(cat "$TMP/registry/port")/" >"$TMP/.npmrc"
start_server <<<'{}'
set_up_opencode
git init -q .

# start WHAT EXPECTED: run opencode once; the packages asked for, each time it was.
start() {
    : >"$TMP/registry/asked"
    run opencode run "a question"
    sleep 2
    seen=$(grep -v '\.tgz$' "$TMP/registry/asked" | sort | tr '\n' ' ' || true)
    echo "$1: ${seen:-nothing}"
    [ "$seen" = "$2" ] || { echo "changed, expected: $2"; exit 1; }
}

one="/@opencode-ai/plugin "
start "no configuration folder, first start" "$one"
start "second start" "$one"
mkdir -p .opencode/command
echo "Say hello." >.opencode/command/hello.md
start "with a command in .opencode, third start" "$one$one"
start "fourth start" "$one$one"
touch "$TMP/registry/open"
start "the registry has it, fifth start" "$one$one"
start "sixth start" ""
for folder in "$TMP/.config/opencode" .opencode; do
    echo "in $(basename "$folder"):" "$(cd "$folder" && find . -mindepth 1 -maxdepth 1 | sort | tr '\n' ' ')"
    for path in node_modules/@opencode-ai/plugin package.json; do
        [ -e "$folder/$path" ] || { echo "changed: $path is not put there"; exit 1; }
    done
done
echo "as found: a package for every folder, asked for until it is there"
