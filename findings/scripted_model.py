#!/usr/bin/env python3
"""A stand-in for the model behind a coding agent, and for an MCP server beside it.

    scripted_model.py FOLDER            serve until stopped
    scripted_model.py FOLDER results    print what tools returned, as the model last saw it

It listens on a free port of 127.0.0.1 and writes the number to FOLDER/port. It speaks the
streaming dialects /responses, /messages, /chat/completions and :streamGenerateContent.

The prompt is the script. `CALL name {"a": 1}` in it (one a line) makes the model call that
tool, once per line and in that order; `SAY text` is what it answers at the end; `WAIT 3` holds
every answer back for three seconds. Without these it answers "Noted."

/mcp is an MCP server of the legacy kind: FOLDER/mcp.json, read anew for every request, maps a
method to its result, for example {"tools/list": {"tools": []}}; "tools/call read" is the result
of the tool `read` alone, "tools/list 2" the page at cursor 2. What was asked, of either, is one
line each in FOLDER/requests.jsonl: {"path", "headers", "body"}.
"""

import http.server
import json
import os
import re
import sys
import time

FOLDER = sys.argv[1]


def list_items(body):
    """Return the items of a conversation, in whichever dialect, each with a list of parts."""
    items = []
    for item in body.get("input") or body.get("messages") or body.get("contents") or []:
        parts = item.get("content") or item.get("parts") or []
        items.append((item, [{"text": parts}] if isinstance(parts, str) else parts))
    return items


def list_results(item, parts):
    """Return what the tools returned, as the item says it to the model."""
    if item.get("type") == "function_call_output":
        return [item["output"]]
    if item.get("role") == "tool":
        return [item["content"]]
    found = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
    return found + [part["content"] for part in parts if part.get("type") == "tool_result"]


def read_dialog(body):
    """Return the last prompt as a text, and the number of tool results after it."""
    prompt, results = "", 0
    for item, parts in list_items(body):
        results += len(list_results(item, parts))
        text = "\n".join(part.get("text") or "" for part in parts)
        if item.get("role") == "user" and re.search(r"^(CALL|SAY|WAIT) ", text, re.M):
            prompt, results = text, 0
    return prompt, results


def decide(body):
    """Return ("call", name, arguments) or ("say", text, None)."""
    prompt, results = read_dialog(body)
    wait = re.search(r"^WAIT (\d+)", prompt, re.M)
    time.sleep(int(wait[1]) if wait else 0)
    calls = re.findall(r"^CALL (\S+) (\{.*\})", prompt, re.M)
    if results < len(calls):
        return "call", calls[results][0], json.loads(calls[results][1])
    said = re.search(r"^SAY (.*)", prompt, re.M)
    return "say", said[1] if said else "Noted.", None


def answer_responses(number, kind, text, arguments):
    """Yield the events of OpenAI's Responses dialect; `space/tool` names a namespace."""
    if kind == "call":
        space, _, name = text.rpartition("/")
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}",
                "name": name, "arguments": json.dumps(arguments)}
        item.update({"namespace": space} if space else {})
    else:
        item = {"type": "message", "id": f"msg_{number}", "role": "assistant",
                "content": [{"type": "output_text", "text": text, "annotations": []}]}
    usage = {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18}
    answer = {"id": f"resp_{number}", "object": "response", "status": "completed",
              "output": [item], "usage": usage}
    started = answer | {"status": "in_progress", "output": []}
    yield {"type": "response.created", "response": started}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": answer}


def answer_messages(number, kind, text, arguments):
    """Yield the events of Anthropic's Messages dialect."""
    empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
    if kind == "call":
        empty = {"type": "tool_use", "id": f"toolu_{number}", "name": text, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
    stop = {"stop_reason": "tool_use" if kind == "call" else "end_turn", "stop_sequence": None}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": [],
               "model": "stand-in", "stop_reason": None, "stop_sequence": None,
               "usage": {"input_tokens": 9, "output_tokens": 1}}
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": empty}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 9}}
    yield {"type": "message_stop"}


def answer_chat(number, kind, text, arguments):
    """Yield the chunks of the Chat Completions dialect."""
    delta = {"role": "assistant", "content": text}
    if kind == "call":
        call = {"name": text, "arguments": json.dumps(arguments)}
        delta = {"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": f"call_{number}", "type": "function", "function": call}]}
    stop = "tool_calls" if kind == "call" else "stop"
    for piece, reason in ((delta, None), ({}, stop)):
        choice = {"index": 0, "delta": piece, "finish_reason": reason}
        yield {"id": f"chat_{number}", "object": "chat.completion.chunk", "created": 1,
               "model": "stand-in", "choices": [choice]}


def answer_gemini(number, kind, text, arguments):
    """Yield the one chunk of Gemini's dialect."""
    part = {"text": text}
    if kind == "call":
        part = {"functionCall": {"id": f"call_{number}", "name": text, "args": arguments}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    yield {"candidates": [candidate], "usageMetadata": {"totalTokenCount": 18}}


DIALECTS = {"/responses": answer_responses, "/messages": answer_messages,
            "/chat/completions": answer_chat, ":streamGenerateContent": answer_gemini}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: written down, then answered by dialect."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    count = 0

    def do_POST(self):
        """Answer as a model or as the MCP server."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        self.write_down(path, body)
        Handler.count += 1
        if path == "/mcp":
            return self.answer_mcp(body)
        for ending, dialect in DIALECTS.items():
            if path.endswith(ending):
                return self.stream(dialect(Handler.count, *decide(body)))
        return self.reply(404, {"error": {"message": "not part of the script"}})

    def do_GET(self):
        """Nothing is to be had by GET."""
        self.write_down(self.path, None)
        self.reply(405 if self.path == "/mcp" else 404, {"error": {"message": "no"}})

    do_DELETE = do_GET

    def answer_mcp(self, body):
        """Answer with what mcp.json holds for the method."""
        with open(os.path.join(FOLDER, "mcp.json"), encoding="utf-8") as file:
            results = json.load(file)
        method = body.get("method")
        params = body.get("params") or {}
        named = f"{method} {params.get('name') or params.get('cursor')}"
        method = named if named in results else method
        version = params.get("protocolVersion")
        results.setdefault("ping", {})
        results["initialize"] = {"protocolVersion": version, "capabilities": {"tools": {}},
                                 "serverInfo": {"name": "box", "version": "1"},
                                 } | results.get("initialize", {})
        if "id" not in body:
            self.reply(202, None)
        elif method in results:
            self.reply(200, {"jsonrpc": "2.0", "id": body["id"], "result": results[method]})
        else:
            error = {"code": -32601, "message": "unknown method"}
            self.reply(200, {"jsonrpc": "2.0", "id": body["id"], "error": error})

    def stream(self, events):
        """Send server-sent events and close the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
        if self.path.endswith("/chat/completions"):
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def reply(self, status, value):
        """Send one JSON object, or nothing."""
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def write_down(self, path, body):
        """Append the request to requests.jsonl."""
        seen = {"path": path, "headers": dict(self.headers), "body": body}
        with open(os.path.join(FOLDER, "requests.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")

    def log_message(self, *_):
        """Stay silent."""


class Server(http.server.ThreadingHTTPServer):
    """A server that says nothing when a client hangs up."""

    def handle_error(self, request, client_address):
        """Stay silent."""


def serve():
    """Listen, tell the port, answer until stopped."""
    server = Server(("127.0.0.1", 0), Handler)
    with open(os.path.join(FOLDER, "port.new"), "w", encoding="utf-8") as file:
        file.write(str(server.server_port))
    os.replace(os.path.join(FOLDER, "port.new"), os.path.join(FOLDER, "port"))
    server.serve_forever()


def print_results():
    """Print the tool results of the last request that had any, one as JSON a line."""
    results = []
    with open(os.path.join(FOLDER, "requests.jsonl"), encoding="utf-8") as file:
        for request in map(json.loads, file):
            items = list_items(request["body"] or {})
            results = [one for pair in items for one in list_results(*pair)] or results
    for result in results:
        print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    print_results() if sys.argv[2:] == ["results"] else serve()
