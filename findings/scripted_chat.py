#!/usr/bin/env python3
"""A model server and an MCP server that answer from a script, on 127.0.0.1 only.

    python3 scripted_chat.py SCRIPT.json FOLDER

writes its port to FOLDER/port and every request it gets to FOLDER/requests.jsonl, one
{"path", "headers", "body"} a line. SCRIPT.json, all of it optional:

    {"WORD": [{"tool": "read", "arguments": {"path": "a"}}, {"text": "Done.", "wait": 1}],
     "mcp": {"instructions": "…", "pages": [["find"], ["more"]], "cursors": ["1"],
             "results": {"find": {"content": [{"type": "text", "text": "found"}]}}}}

POST …/chat/completions (streamed or not): the last WORD in a message of the user chooses
a list; its step is the number of tool results after that message. A tool is named
by the end of its name, since agents put a prefix before it; one that is not offered is
answered with text. Without a WORD, or without tools (a title, a summary): "All right."

POST /mcp: initialize, tools/list in the given pages, tools/call. Every GET is a 405, but
for …/models; every other POST a 404.
"""
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


def text_of(message: dict) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def choose_step(script: dict, request: dict) -> dict:
    messages, words = request["messages"], [word for word in script if word != "mcp"]
    asked = [(i, word) for i, message in enumerate(messages) if message["role"] == "user"
             for word in words if word in text_of(message)]
    if not asked:
        return {"text": "All right."}
    start, word = asked[-1]
    steps = script[word]
    done = sum(message["role"] == "tool" for message in messages[start:])
    step = steps[min(done, len(steps) - 1)]
    if "tool" not in step:
        return step if request.get("tools") or not any("tool" in s for s in steps) else {"text": "All right."}
    offered = [tool["function"]["name"] for tool in request.get("tools") or ()]
    named = [name for name in offered if name.endswith(step["tool"])]
    return dict(step, tool=named[0]) if named else {"text": "All right."}


def make_answer(step: dict, number: int) -> tuple[dict, str]:
    if "tool" not in step:
        return {"role": "assistant", "content": step["text"]}, "stop"
    function = {"name": step["tool"], "arguments": json.dumps(step.get("arguments", {}))}
    call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"


def answer_mcp(script: dict, request: dict) -> dict:
    method, params = request["method"], request.get("params") or {}
    mcp = {"pages": [[]], "results": {}, **script.get("mcp", {})}
    if method == "initialize":
        asked = params.get("protocolVersion")
        result = {"protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
                  "capabilities": {"tools": {}}, "serverInfo": {"name": "scripted", "version": "1"}}
        if "instructions" in mcp:
            result["instructions"] = mcp["instructions"]
    elif method == "tools/list":
        cursors = mcp.get("cursors", [str(i) for i in range(1, len(mcp["pages"]))])
        page = cursors.index(params["cursor"]) + 1 if params.get("cursor") is not None else 0
        result = {"tools": [{"name": name, "description": f"The tool {name}.",
                             "inputSchema": {"type": "object", "properties": {}}}
                            for name in mcp["pages"][page]]}
        if page < len(cursors):
            result["nextCursor"] = cursors[page]
    elif method == "tools/call":
        result = mcp["results"][params["name"]]
    elif method == "ping":
        result = {}
    else:
        return {"error": {"code": -32601, "message": f"no method {method}"}}
    return {"result": result}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    script: dict = {}
    folder = ""
    count = 0

    def do_GET(self) -> None:
        if self.path.endswith("/models"):
            self.send_json(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        else:
            self.send_json(405, {})

    def do_DELETE(self) -> None:
        self.send_json(405, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        record = {"path": self.path, "headers": dict(self.headers), "body": body}
        with open(os.path.join(self.folder, "requests.jsonl"), "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if not self.path.startswith("/mcp"):
            self.send_completion(body) if "messages" in body else self.send_json(404, {})
        elif "id" not in body:
            self.send_bytes(202, "application/json", b"")
        else:
            self.send_json(200, {"jsonrpc": "2.0", "id": body["id"], **answer_mcp(self.script, body)})

    def send_completion(self, request: dict) -> None:
        Handler.count += 1
        step = choose_step(self.script, request)
        time.sleep(step.get("wait", 0))
        message, reason = make_answer(step, Handler.count)
        head = {"id": f"chat-{Handler.count}", "created": int(time.time()), "model": "scripted"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if not request.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self.send_json(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        chunks = [{"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
                  {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
                  {"choices": [], "usage": usage}]
        lines = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        stream = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        self.send_bytes(200, "text/event-stream", stream.encode())

    def send_json(self, status: int, value: object) -> None:
        self.send_bytes(status, "application/json", json.dumps(value).encode())

    def send_bytes(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        Handler.script = json.load(file)
    Handler.folder = sys.argv[2]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with open(os.path.join(Handler.folder, "port.new"), "w", encoding="ascii") as file:
        file.write(str(server.server_port))
    os.replace(file.name, os.path.join(Handler.folder, "port"))
    server.serve_forever()


if __name__ == "__main__":
    main()
