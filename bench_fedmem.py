#!/usr/bin/env python3
"""Measure fedmem.py and print Markdown tables; judge nothing.

    python3 bench_fedmem.py http      requests a second and latency of two tools
    python3 bench_fedmem.py startup   spawn to first answer; memory of an idle server
    python3 bench_fedmem.py upload    a large transcript: speed, peak memory, last page
    python3 bench_fedmem.py sync      a client's first sync, and one without changes
    python3 bench_fedmem.py hook      what a hook costs over starting Python
    python3 bench_fedmem.py all       all of them, one after the other

With `--peers DIR` the same load also goes to a server made with the official MCP Python
SDK, installed into a virtual environment in DIR, which is kept. That favours the peer:
its two tools answer from memory and check no token.
"""

import argparse
import base64
import contextlib
import gzip
import hashlib
import http.client
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median

AI_TOKEN, SYNC_TOKEN = "bench-ai-token", "bench-sync-token"
WORKSPACES = 20
DOCUMENT = "# Bench\n".ljust(2048, "x")
CONNECTIONS = (1, 8, 32)
LOAD_UNITS = ("req/s", "p50 ms", "p99 ms")
WARM_UP_S = 0.3  # at the start of every round, not counted
ROUNDS, ROUND_S = 5, 1.0
STARTUP_RUNS = 7
SYNC_SESSIONS, SYNC_SESSION_BYTES, SYNC_SMALL_SESSIONS = 400, 500_000, 9_600
HOOK_RUNS = 15
PIECE_BYTES = 4 << 20  # raw bytes that one call of upload_session may carry
WAIT_S = 60.0  # for a start or an answer; longer means broken


class BenchError(Exception):
    """A measurement that could not be made, told in one sentence."""


# ---- 1. Calls: one request at a time ----------------------------------------
# MCP as most clients still speak it: a version header, no session, one JSON answer.


def format_request(token: str, method: str, params: dict) -> bytes:
    """Return a whole HTTP request, ready to be sent as it is."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    body = json.dumps(message).encode()
    head = (
        "POST /mcp HTTP/1.1\r\n"
        "Host: 127.0.0.1:8000\r\n"  # any port will do: servers compare the name
        f"Authorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\n"
        "MCP-Protocol-Version: 2025-06-18\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def open_socket(port: int) -> socket.socket:
    """Return a connection that does not hold back small writes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def exchange(sock: socket.socket, request: bytes) -> dict:
    """Send one request and return its result; raise BenchError if there is none."""
    sock.sendall(request)
    response = http.client.HTTPResponse(sock)
    response.begin()
    body = response.read()
    if body.startswith((b"event:", b"id:", b"data:")):  # the plain peer streams
        body = body.partition(b"data: ")[2].partition(b"\r\n")[0]
    result = json.loads(body).get("result") if response.status == 200 else None
    if not result or result.get("isError"):
        raise BenchError(f"a request was answered {response.status}: {body[:400]!r}")
    return result


def call_tool(sock: socket.socket, token: str, tool: str, arguments: dict) -> str:
    """Return the text that a tool answers."""
    params = {"name": tool, "arguments": arguments}
    result = exchange(sock, format_request(token, "tools/call", params))
    return result["content"][0]["text"]


def is_answering(port: int) -> bool:
    """Say whether a server answers an initialize yet."""
    client = {"name": "bench_fedmem", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    try:
        with open_socket(port) as sock:
            return bool(exchange(sock, format_request(AI_TOKEN, "initialize", params)))
    except ConnectionError:
        return False


# ---- 2. Servers: started and ended here -------------------------------------
# A command takes its port as the last word. Its environment is made, not inherited, so
# that no variable of the caller counts. Linux shows the memory of a process in /proc.


def read_memory_mb(pid: int, field: str) -> float:
    """Return what a process has in memory now (VmRSS) or had at most (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def format_fedmem_command(program: Path, folder: Path) -> list[str]:
    """Return the command of the server under test, its root inside the folder."""
    return [sys.executable, str(program), "serve", "--root", f"{folder}/root", "--port"]


@contextlib.contextmanager
def running(command: list[str], folder: Path) -> Iterator[tuple[int, int, float]]:
    """Run a server; give its port, process id and seconds to the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tokens = {"MCP_TOKEN": AI_TOKEN, "SYNC_TOKEN": SYNC_TOKEN}
    env = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8", **tokens}
    log = folder / f"server-{port}.log"
    with open(log, "wb") as out:
        started_s = time.perf_counter()
        command = [*command, str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        while not is_answering(port):
            if process.poll() is not None or time.perf_counter() > started_s + WAIT_S:
                raise BenchError(f"a server did not start: {log.read_text()[-800:]}")
            time.sleep(0.001)
        yield port, process.pid, time.perf_counter() - started_s
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()  # does nothing to a process that has ended
        process.wait()


# ---- 3. Load: many requests at a time ---------------------------------------
# One loop in a process of its own; each connection is kept alive and has one request
# under way. Servers take turns and medians count: any machine is disturbed at times.


def count_missing(received: bytes) -> int:
    """Return how many bytes of an answer are still to come, 1 if that is unknown."""
    head, blank, body = received.partition(b"\r\n\r\n")
    if not blank:
        return 1
    length = re.search(rb"content-length: *(\d+)", head.lower())
    is_stream = b"transfer-encoding: chunked" in head.lower()
    if not (length or is_stream) or b" 200 " not in head[:15]:
        raise BenchError(f"under load a server answered {received[:200]!r}")
    if is_stream:
        return 0 if body.endswith(b"0\r\n\r\n") else 1
    return int(length[1]) - len(body)


def fly(sock: socket.socket, request: bytes, deadline_s: float, done: list) -> Iterator:
    """Send request after request; note start and seconds; yield to wait for bytes."""
    while (started_s := time.perf_counter()) < deadline_s:
        sock.sendall(request)
        received, missing = b"", 1
        while missing > 0:
            yield
            received += (arrived := sock.recv(1 << 18))
            if not arrived:
                raise BenchError("under load a server closed a connection")
            missing = count_missing(received)
        done.append((started_s, time.perf_counter() - started_s))


def join_session(sock: socket.socket, request: bytes) -> bytes:
    """Return a request with the session that a server opens for it, if it opens one."""
    who = {"name": "bench", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": who}
    sock.sendall(format_request(AI_TOKEN, "initialize", params))
    received, missing = b"", 1
    while missing > 0:
        received += sock.recv(1 << 18)
        missing = count_missing(received)
    found = re.search(rb"(?i)\r\n(mcp-session-id: *\S+\r\n)", received)
    return request.replace(b"\r\n", b"\r\n" + found[1], 1) if found else request


def run_load(port: int, request: bytes, connections: int) -> tuple:
    """Return the three figures of one round; runs in the load process."""
    done: list[tuple[float, float]] = []
    with selectors.DefaultSelector() as selector:
        socks = [open_socket(port) for _ in range(connections)]
        requests = [join_session(sock, request) for sock in socks]
        begin_s = time.perf_counter() + WARM_UP_S
        for sock, own in zip(socks, requests, strict=True):
            flight = fly(sock, own, begin_s + ROUND_S, done)
            selector.register(sock, selectors.EVENT_READ, flight)
            next(flight)
        while selector.get_map():
            if not (events := selector.select(WAIT_S)):
                raise BenchError(f"under load no answer came within {WAIT_S:.0f} s")
            for key, _ in events:
                if next(key.data, "landed") == "landed":
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    counted_ms = sorted(took_s * 1e3 for start_s, took_s in done if start_s > begin_s)
    p99_ms = counted_ms[int(len(counted_ms) * 0.99)]
    return len(counted_ms) / ROUND_S, median(counted_ms), p99_ms


def measure_load(ports: list[int], request: bytes, connections: int) -> list[tuple]:
    """Measure the servers in turns; return the median figures of each."""
    rounds: list[list[tuple]] = [[] for _ in ports]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for port, mine in list(zip(ports, rounds, strict=True)) * ROUNDS:
            mine.append(pool.apply(run_load, (port, request, connections)))
    return [tuple(map(median, zip(*mine, strict=True))) for mine in rounds]


# ---- 4. Peer: the official Python SDK ---------------------------------------
# "plain" is what its first example runs: sessions, answers as event streams. "tuned" is
# the fastest way it documents: stateless, JSON answers, no access log. Both have async
# tools, and answer with the very texts that fedmem answered, read once from a folder.
PEERS = ("plain", "tuned")

PEER_SOURCE = '''\
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

folder, variant, port = sys.argv[1:]
WORKSPACES = open(f"{folder}/list_workspaces.txt").read()
DOCUMENT = open(f"{folder}/read_knowledge.txt").read()
server = MCPServer("peer", log_level="WARNING")


@server.tool(structured_output=False)
async def list_workspaces(query: str = "", limit: int = 50, offset: int = 0) -> str:
    """List the workspaces."""
    return WORKSPACES


@server.tool(structured_output=False)
async def read_knowledge(workspace_id: str, path: str) -> str:
    """Read one document of a workspace."""
    return DOCUMENT


if variant == "plain":
    server.run(transport="streamable-http", host="127.0.0.1", port=int(port))
app = server.streamable_http_app(stateless_http=True, json_response=True)
uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False)
'''


def format_peer_command(
    peers: Path, folder: Path, texts: dict[str, str], variant: str = "tuned"
) -> list[str]:
    """Install the peer if need be; return its command, which answers these texts."""
    python = peers.resolve() / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", peers / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "mcp>=2,<3"]
    subprocess.run(install, check=True)  # takes a second when it is there
    program = peers.resolve() / "peer_server.py"
    program.write_text(PEER_SOURCE)
    for tool, text in texts.items():
        (folder / f"{tool}.txt").write_text(text)
    return [str(python), str(program), str(folder), variant]


# ---- 5. Transcript: made, not real ------------------------------------------
# JSON lines in the shape Claude Code writes: four of five, and the longer ones, are not
# conversation. The same seed gives the same bytes; gzip leaves a third of them.

LONGEST = {"user": 8, "assistant": 40, "attachment": 120}  # in sentences
KINDS = ("user", *["attachment"] * 4, "assistant", *["attachment"] * 4)


def make_sentences(rng: random.Random) -> list[str]:
    """Return the sentences that every text is made of; common words are common."""
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "un")]
    vocabulary = ["".join(rng.choices(syllables, k=n % 4 + 1)) for n in range(4000)]
    weights = [1 / (rank + 3) for rank in range(4000)]
    words = rng.choices(vocabulary, weights, k=240_000)
    return [" ".join(words[n : n + 12]) + ".\n" for n in range(0, len(words), 12)]


def iter_lines(seed: int) -> Iterator[bytes]:
    """Yield the lines of one session, without end."""
    rng = random.Random(seed)
    sentences = make_sentences(rng)
    same = {"userType": "external", "entrypoint": "cli", "cwd": "/home/dev/project"}
    same |= {"sessionId": f"bench-{seed}", "version": "2.1.330", "gitBranch": "main"}
    uid = None
    for number, kind in enumerate(itertools.cycle(KINDS)):
        line = {"parentUuid": uid, "isSidechain": False, "type": kind}
        text = "".join(rng.choices(sentences, k=rng.randint(1, LONGEST[kind])))
        if kind == "attachment":
            line["attachment"] = {"type": "skill_listing", "content": text}
        else:
            blocks = [{"type": "text", "text": text}]
            line["message"] = {"role": kind, "model": "bench", "content": blocks}
        line["uuid"] = uid = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        moment = time.gmtime(1_767_600_000 + number * 3)
        line["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", moment)
        yield json.dumps(line | same, separators=(",", ":")).encode() + b"\n"


def append_lines(path: Path, lines: Iterator[bytes], min_bytes: int) -> None:
    """Append lines to a file: at least so many bytes, and the last line whole."""
    with open(path, "ab") as file:
        while min_bytes > 0:
            min_bytes -= file.write(next(lines))


def hash_file(file) -> str:
    """Return the sha256 of all that is left to read of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def iter_pieces(path: Path, offset: int, session: dict) -> Iterator[dict]:
    """Yield the arguments of each upload that carries a file, from offset to end."""
    with open(path, "rb") as file:
        whole = {"total_size": path.stat().st_size, "sha256": hash_file(file)}
        file.seek(offset)
        while raw := file.read(PIECE_BYTES):
            data = base64.b64encode(gzip.compress(raw, 6)).decode()
            yield {**session, **whole, "offset": offset, "data": data}
            offset += len(raw)


# ---- 6. Commands: measure and print -----------------------------------------
# Each gets an empty folder, removed afterwards. A row is a label, our figure and the
# peer's or None. A ratio above 1 speaks for fedmem; more is better only per second.


def format_row(label: str, ours: float, peer: float | None, missing: str) -> tuple:
    """Return the cells of a row: figures with three digits, and their ratio."""
    pair = (ours,) if peer is None else (ours, peer)
    cells = [f"{x:,.{2 - (x >= 10) - (x >= 100)}f}" for x in pair]
    if peer is None:
        return label, *cells, missing, "-"
    return label, *cells, f"{ours / peer if '/s' in label else peer / ours:.1f}x"


def print_table(title: str, rows: list[tuple], missing="not measured (--peers DIR)"):
    """Print one Markdown table under its title."""
    cells = [format_row(*row, missing) for row in rows]
    print(f"\n### {title}\n")
    for row in (("what", "fedmem", "SDK", "ratio"), ("---",) * 4, *cells):
        print("| " + " | ".join(row) + " |", flush=True)


def register(sock: socket.socket, project: str) -> dict:
    """Register a workspace; return the two arguments that every upload to it needs."""
    names = {"project": project, "machine": "bench", "tool": "claude"}
    made = json.loads(call_tool(sock, SYNC_TOKEN, "register_workspace", names))
    return {name: made[name] for name in ("workspace_id", "write_token")}


def fill_server(sock: socket.socket) -> dict[str, dict]:
    """Put a document into each of some workspaces; return the calls to measure."""
    for number in range(WORKSPACES):
        owner = register(sock, f"project-{number}")
        document = {**owner, "path": "notes/bench.md", "content": DOCUMENT}
        call_tool(sock, SYNC_TOKEN, "upload_knowledge", document)
    where = {"workspace_id": owner["workspace_id"], "path": "notes/bench.md"}
    return {"list_workspaces": {}, "read_knowledge": where}


def cmd_http(args: argparse.Namespace, folder: Path) -> None:
    """Print requests a second and latency of two tools, against each peer."""
    rows: dict[str, list] = {peer: [] for peer in PEERS if args.peers} or {"none": []}
    with contextlib.ExitStack() as stack:
        command = format_fedmem_command(args.program, folder)
        ports = [stack.enter_context(running(command, folder))[0]]
        sock = stack.enter_context(open_socket(ports[0]))
        calls = fill_server(sock)
        texts = {name: call_tool(sock, AI_TOKEN, name, calls[name]) for name in calls}
        for variant in PEERS if args.peers else ():
            peer = format_peer_command(args.peers, folder, texts, variant)
            ports.append(stack.enter_context(running(peer, folder))[0])
        for tool, connections in itertools.product(calls, CONNECTIONS):
            params = {"name": tool, "arguments": calls[tool]}
            request = format_request(AI_TOKEN, "tools/call", params)
            ours, *others = measure_load(ports, request, connections)
            labels = [f"{tool}, {connections} at once: {unit}" for unit in LOAD_UNITS]
            for mine, peer in zip(
                rows.values(), others or [(None,) * len(ours)], strict=True
            ):
                mine += zip(labels, ours, peer, strict=True)
    for variant, mine in rows.items():
        about = f"Tool calls: medians of {ROUNDS} rounds of {ROUND_S} s; SDK {variant}"
        print_table(about, mine)


def measure_starts(commands: list[list[str]], folder: Path) -> list[tuple]:
    """Start servers in turns; return for each the median ms and the idle MB."""
    starts_ms: list[list[float]] = [[] for _ in commands]
    for command, mine in list(zip(commands, starts_ms, strict=True)) * STARTUP_RUNS:
        with running(command, folder) as (_, _, startup_s):
            mine.append(startup_s * 1e3)
    memory_mb = []
    for command in commands:
        with running(command, folder) as (port, pid, _), open_socket(port) as sock:
            time.sleep(2)
            exchange(sock, format_request(AI_TOKEN, "tools/list", {}))
            memory_mb.append(read_memory_mb(pid, "VmRSS"))
    return list(zip(map(median, starts_ms), memory_mb, strict=True))


def cmd_startup(args: argparse.Namespace, folder: Path) -> None:
    """Print the time from spawn to first answer and the memory of an idle server."""
    commands = [format_fedmem_command(args.program, folder)]
    if args.peers:
        texts = {"list_workspaces": "", "read_knowledge": ""}
        commands.append(format_peer_command(args.peers, folder, texts))
    ours, peer = (measure_starts(commands, folder) + [(None, None)])[:2]
    labels = ("spawn to first answer, ms", "idle resident memory, MB")
    rows = list(zip(labels, ours, peer, strict=True))
    print_table(f"Start: median of {STARTUP_RUNS}", rows)


def time_calls(sock: socket.socket, token: str, tool: str, calls: list[dict]) -> list:
    """Make one call after the other; return the seconds that each took."""
    times_s = []
    for arguments in calls:
        started_s = time.perf_counter()
        call_tool(sock, token, tool, arguments)
        times_s.append(time.perf_counter() - started_s)
    return times_s


def is_byte_exact(folder: Path, transcript: Path) -> bool:
    """Say whether the only archive on disk unpacks to the transcript."""
    (archive,) = (folder / "root" / "workspaces").glob("*/sessions/**/*.jsonl.gz")
    with gzip.open(archive) as stored, open(transcript, "rb") as sent:
        return hash_file(stored) == hash_file(sent)


def cmd_upload(args: argparse.Namespace, folder: Path) -> None:
    """Print what storing, growing and reading one large transcript takes."""
    transcript, lines = folder / "transcript.jsonl", iter_lines(seed=1)
    append_lines(transcript, lines, args.size_mb * 1_000_000)
    size = transcript.stat().st_size
    command, rows = format_fedmem_command(args.program, folder), {}
    with running(command, folder) as (port, pid, _), open_socket(port) as sock:
        session = {**register(sock, "upload"), "session_id": "bench-1"}
        started_s = time.perf_counter()
        pieces = list(iter_pieces(transcript, 0, session))
        client_s = time.perf_counter() - started_s
        times_s = time_calls(sock, SYNC_TOKEN, "upload_session", pieces)
        server_s = sum(times_s)
        rows["upload of raw transcript, MB/s"] = size / 1e6 / server_s
        rows["with the client's work, MB/s"] = size / 1e6 / (server_s + client_s)
        rows["slowest call of the upload, ms"] = max(times_s) * 1e3
        rows["peak memory of the server, MB"] = read_memory_mb(pid, "VmHWM")
        append_lines(transcript, lines, 1 << 20)
        session["base_sha256"] = pieces[0]["sha256"]
        tail = list(iter_pieces(transcript, size, session))
        times_s = time_calls(sock, SYNC_TOKEN, "upload_session", tail)
        rows["growth by 1 MiB, ms"] = sum(times_s) * 1e3
        page = {name: session[name] for name in ("workspace_id", "session_id")}
        pages = [{**page, "offset": -50}] * 5
        page_s = median(time_calls(sock, AI_TOKEN, "read_session", pages))
        rows["last page of 50 messages, ms"] = page_s * 1e3
        rows["peak memory at the end, MB"] = read_memory_mb(pid, "VmHWM")
    table = [(label, figure, None) for label, figure in rows.items()]
    print_table(f"Upload of {size / 1e6:.0f} MB", table, "no counterpart")
    print(f"\nbyte-exact: {'yes' if is_byte_exact(folder, transcript) else 'NO'}")


def prepare_client(folder: Path, port: int, program: Path) -> dict[str, str]:
    """Set a client up in a folder as `install` would; return its environment."""
    home = folder / "sync"
    (home / "bin").mkdir(parents=True)
    config = {"url": f"http://127.0.0.1:{port}", "machine": "bench"}
    tokens = {"mcp_token": AI_TOKEN, "sync_token": SYNC_TOKEN}
    (home / "config.json").write_text(json.dumps(config))
    (home / "tokens.json").write_text(json.dumps(tokens))
    (home / "bin" / "fedmem.py").write_bytes(program.read_bytes())
    launcher = "import sys\nimport fedmem\nsys.exit(fedmem.main())\n"
    (home / "bin" / "memory_sync.py").write_text(launcher)
    places = {"CLAUDE_CONFIG_DIR": f"{folder}/claude", "CODEX_HOME": f"{folder}/codex"}
    env = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8", **places}
    return {**env, "MEMORY_SYNC_HOME": str(home)}


def time_command(command: list[str], env: dict[str, str], data: bytes = b"") -> float:
    """Return the seconds that a command takes; raise BenchError when it fails."""
    started_s = time.perf_counter()
    done = subprocess.run(command, env=env, input=data, capture_output=True)
    if done.returncode:
        raise BenchError(f"{command[-1]} failed: {done.stdout + done.stderr!r}")
    return time.perf_counter() - started_s


def cmd_sync(args: argparse.Namespace, folder: Path) -> None:
    """Print what a first sync costs, and one without changes over many files."""
    project, lines, raw = folder / "claude/projects/-bench", iter_lines(seed=2), 0
    project.mkdir(parents=True)
    for number in range(SYNC_SESSIONS):
        append_lines(project / f"s{number}.jsonl", lines, SYNC_SESSION_BYTES)
        raw += (project / f"s{number}.jsonl").stat().st_size
    with running(format_fedmem_command(args.program, folder), folder) as (port, _, _):
        env = prepare_client(folder, port, args.program)
        launcher = f"{env['MEMORY_SYNC_HOME']}/bin/memory_sync.py"
        command = [sys.executable, launcher, "sync"]
        first_s = time_command(command, env)
        for number in range(SYNC_SMALL_SESSIONS):
            append_lines(project / f"t{number}.jsonl", lines, 1_000)
        small_s = time_command(command, env)
        again_s = median(time_command(command, env) for _ in range(5))
    count = SYNC_SESSIONS + SYNC_SMALL_SESSIONS
    rows = [
        (f"first sync of {SYNC_SESSIONS} sessions, MB/s", raw / 1e6 / first_s, None),
        (f"{SYNC_SMALL_SESSIONS:,} small sessions, s", small_s, None),
        (f"sync of {count:,} without changes, s", again_s, None),
    ]
    print_table(f"Sync; the first is of {raw / 1e6:.0f} MB", rows, "no counterpart")


def cmd_hook(args: argparse.Namespace, folder: Path) -> None:
    """Print what a hook takes beside starting Python, the server up and away."""
    rows = []
    with running(format_fedmem_command(args.program, folder), folder) as (port, _, _):
        env = prepare_client(folder, port, args.program)
        launcher = f"{env['MEMORY_SYNC_HOME']}/bin/memory_sync.py"
        hook, bare = (
            [sys.executable, launcher, "claude-hook"],
            [sys.executable, "-c", ""],
        )
        for event in ("SessionStart", "SessionEnd", "Stop"):
            data = {"hook_event_name": event, "session_id": "s", "cwd": str(folder)}
            body = json.dumps(data).encode()
            pairs = [
                (time_command(hook, env, body), time_command(bare, env))
                for _ in range(HOOK_RUNS)
            ]
            took_ms, bare_ms = (median(each) * 1e3 for each in zip(*pairs, strict=True))
            rows.append((f"{event} hook, ms", took_ms, None))
            rows.append(
                (f"{event} hook over `python3 -c ''`, ms", took_ms - bare_ms, None)
            )
    print_table(f"Hooks: medians of {HOOK_RUNS}", rows, "no counterpart")


def format_machine() -> str:
    """Return one line about this machine."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.machine()
    versions = f"Python {platform.python_version()}, Linux {platform.release()}"
    return f"Machine: {os.cpu_count()} CPUs ({model}), {versions}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().with_name("fedmem.py")
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--peers", type=Path, metavar="DIR", help="measure the SDK")
    options.add_argument("--program", type=Path, default=beside, help="to measure")
    options.add_argument("--size-mb", type=int, default=200, help="upload: raw size")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    benches = {"http": [cmd_http], "startup": [cmd_startup], "upload": [cmd_upload]}
    benches |= {"sync": [cmd_sync], "hook": [cmd_hook]}
    benches["all"] = [cmd_http, cmd_startup, cmd_upload, cmd_sync, cmd_hook]
    for name, run in benches.items():
        commands.add_parser(name, parents=[options]).set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    args = build_parser().parse_args(argv)
    print(format_machine())
    try:
        for run in args.run:
            with tempfile.TemporaryDirectory(prefix="fedmem-bench-") as name:
                run(args, Path(name))
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"bench_fedmem: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
