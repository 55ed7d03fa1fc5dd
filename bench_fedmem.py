#!/usr/bin/env python3
"""Measure fedmem.py beside its peers and print Markdown tables; judge nothing.

    python3 bench_fedmem.py http      requests a second and latency of two tools
    python3 bench_fedmem.py startup   spawn to first answer; memory of an idle server
    python3 bench_fedmem.py workers   one process and two: requests, durable writes
    python3 bench_fedmem.py writers   32 writers of notes; all of them read back
    python3 bench_fedmem.py upload    a large transcript: speed, peak memory, last page
    python3 bench_fedmem.py sync      a client's first sync, and one without changes
    python3 bench_fedmem.py hook      what a hook costs over starting Python
    python3 bench_fedmem.py search    notes: how fast and how often found at once
    python3 bench_fedmem.py scale     100 MB of sessions: index, searches, against rg
    python3 bench_fedmem.py all       all of them, one after the other: 15 minutes
    python3 bench_fedmem.py search --locomo FILE    questions with known answers too

`--peers DIR` measures others in the same run, in turns, and keeps them in DIR:

- SDK: a server made with the official MCP Python SDK (http, startup). That favours the
  peer: its two tools answer from memory and check no token.
- basic-memory, on Python 3.12 (startup, writers, search). Without vectors, whose model
  it would have to fetch; that makes it faster. It syncs no write to the disk.
- server-memory, the reference server, needs npm (startup, writers). Nor does it sync.
- restic (sync): the Debian package, installed when run as root.

A peer that cannot be had is told in one line and left out. `--quick` is a smoke run.
`scale --mb 100 --mb 1000` measures two corpora, each on a server of its own.
`--before FILE` measures an older fedmem.py too (sync, scale, writers), as `git show
COMMIT:fedmem.py` prints it, by time and cursor alone. `sync --sessions 40
--small-sessions 400` and `scale --mb 20 --seconds 3` take about a minute each.
`--locomo FILE` is `data/locomo10.json` of snap-research/LoCoMo: CC BY-NC 4.0, so bring
your own copy.
Whoever tunes on it looks at its first conversations only: `--conversations 5`.
"""

import argparse
import base64
import contextlib
import dataclasses
import functools
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
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median

AI_TOKEN, SYNC_TOKEN = "bench-ai-token", "bench-sync-token"
WORKSPACES = 20
DOCUMENT = "# Bench\n".ljust(2048, "x")
CONNECTIONS = (1, 8, 32)
LOAD_UNITS = ("req/s", "p50 ms", "p99 ms", "server's CPU us")
WRITERS = 32
SYNC_SESSION_BYTES = 500_000
UPLOAD_THREADS = 3
RECEIVE_BYTES = 1 << 18
FRESH_S = 1800.0  # how long an index may take
PIECE_BYTES = 4 << 20  # raw bytes that one call of upload_session may carry
LOOK_S = 0.05  # between two looks at the memory of a server and its children
PING_S = 0.01  # between two calls while a server is at work
STEPS = 500  # of a search that is followed until it is complete
WAIT_S = 60.0  # for a start or an answer; longer means broken


@dataclasses.dataclass(frozen=True)
class Effort:
    """Say how often, how long and how much is measured."""

    warm_up_s: float = 0.3  # at the start of every round, not counted
    rounds: int = 5
    round_s: float = 1.0
    starts: int = 7
    starts_s: float = 40.0  # of one server: those who take long start less often
    idle_s: float = 2.0
    writes_rounds: int = 3
    writes_s: float = 5.0
    upload_mb: int = 200
    sync_rounds: int = 3
    sync_sessions: int = 400
    sync_small_sessions: int = 9_600
    sync_repeats: int = 5
    hook_runs: int = 15
    notes: int = 400
    searches: int = 200  # of each kind: so many, or what fits in the time
    searches_s: float = 30.0
    scans: int = 7  # runs of rg, which take seconds each
    quiet_s: float = 10.0  # calls to a server that has nothing else to do
    scale_mb: int = 100


FULL = Effort()
QUICK = Effort(
    warm_up_s=0.1,
    rounds=1,
    round_s=0.2,
    starts=1,
    idle_s=0.1,
    writes_rounds=1,
    writes_s=1.0,
    upload_mb=10,
    sync_rounds=1,
    sync_sessions=10,
    sync_small_sessions=90,
    sync_repeats=1,
    hook_runs=1,
    notes=20,
    searches=10,
    scans=1,
    quiet_s=1.0,
    scale_mb=3,
)


class BenchError(Exception):
    """A measurement that could not be made, told in one sentence."""


# ---- 1. Calls: one request at a time ----------------------------------------
# MCP as most clients still speak it: a version header, a session where one is given.

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench_fedmem", "version": "1"},
}


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


def require_result(answer: object) -> dict:
    """Return the result in a JSON-RPC answer; raise BenchError if there is none."""
    result = answer.get("result") if isinstance(answer, dict) else None
    if not result or result.get("isError"):
        raise BenchError(f"a request was answered {json.dumps(answer)[:400]}")
    return result


def exchange(sock: socket.socket, request: bytes) -> dict:
    """Send one request and return its result; raise BenchError if there is none."""
    sock.sendall(request)
    response = http.client.HTTPResponse(sock)
    response.begin()
    body = response.read()
    if body.startswith((b"event:", b"id:", b"data:")):  # some peers stream
        body = body.partition(b"data: ")[2].partition(b"\r\n")[0]
    if response.status != 200:
        raise BenchError(f"a request was answered {response.status}: {body[:400]!r}")
    return require_result(json.loads(body))


def add_header(request: bytes, header: bytes) -> bytes:
    """Return a request with one more header line, if it is not empty."""
    return request.replace(b"\r\n", b"\r\n" + header, 1) if header else request


def call_tool(
    sock: socket.socket, token: str, tool: str, arguments: dict, header: bytes = b""
) -> str:
    """Return the text that a tool answers."""
    params = {"name": tool, "arguments": arguments}
    request = format_request(token, "tools/call", params)
    return exchange(sock, add_header(request, header))["content"][0]["text"]


def register(sock: socket.socket, project: str) -> dict:
    """Register a workspace; return the two arguments that every upload to it needs."""
    names = {"project": project, "machine": "bench", "tool": "claude"}
    made = json.loads(call_tool(sock, SYNC_TOKEN, "register_workspace", names))
    return {name: made[name] for name in ("workspace_id", "write_token")}


def read_metrics(port: int) -> str:
    """Return the server's metrics as text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Bearer {SYNC_TOKEN}"}
        connection.request("GET", "/metrics", headers=headers)
        return connection.getresponse().read().decode()


def count_missing(received: bytes) -> int:
    """Return how many bytes of an answer are still to come, 1 if that is unknown."""
    head, blank, body = received.partition(b"\r\n\r\n")
    if not blank:
        return 1
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    is_stream = not length and b"transfer-encoding: chunked" in head.lower()
    if not (length or is_stream) or b" 200 " not in head[:15]:
        raise BenchError(f"under load a server answered {received[:200]!r}")
    if is_stream:
        return 0 if body.endswith(b"0\r\n\r\n") else 1
    return int(length[1]) - len(body)


def join_session(sock: socket.socket) -> bytes:
    """Initialize; return the header of the session that was opened, empty for none."""
    sock.sendall(format_request(AI_TOKEN, "initialize", INITIALIZE))
    received, missing = b"", 1
    while missing > 0:
        received += (arrived := sock.recv(RECEIVE_BYTES))
        if not arrived:
            raise BenchError("a server closed the connection it was to be met on")
        missing = count_missing(received)
    found = re.search(rb"(?i)\r\n(mcp-session-id: *\S+\r\n)", received)
    return found[1] if found else b""


def is_answering(port: int) -> bool:
    """Say whether a server answers initialize and tools/list yet."""
    try:
        with open_socket(port) as sock:
            request = format_request(AI_TOKEN, "tools/list", {})
            return bool(exchange(sock, add_header(request, join_session(sock))))
    except ConnectionError:
        return False


# ---- 2. Servers: started and ended here -------------------------------------
# A command takes its port as the last word. Its environment is made, not inherited, so
# that no variable of the caller counts. Linux shows the memory of a process in /proc.


def read_memory_mb(pid: int, field: str) -> float:
    """Return what a process has in memory now (VmRSS) or had at most (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def list_below(pid: int) -> list[int]:
    """Return the processes below one that live now, whichever thread started them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has just ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread of it
                found += map(int, path.read_text().split())
    return found + [deep for child in found for deep in list_below(child)]


def sum_memory_mb(pid: int, field: str = "VmHWM") -> float:
    """Return the memory of a server, that of its living children added."""
    total_mb = read_memory_mb(pid, field)
    for child in list_below(pid):
        with contextlib.suppress(OSError, TypeError):  # it has just ended
            total_mb += read_memory_mb(child, field)
    return total_mb


class Peaks:
    """Watch a server and the processes below it: those end before they can be asked."""

    def __init__(self, pid: int):
        """Take the server's process id."""
        self._pid, self._known = pid, set()
        self.child_mb, self.sum_mb, self.children = 0.0, 0.0, set()

    def look(self) -> None:
        """Take the moment into account. A child counts from the second look on: before
        it becomes another program its memory is its parent's."""
        below = set(list_below(self._pid))
        for child in below & self._known:
            with contextlib.suppress(OSError, TypeError):  # it has just ended
                self.child_mb = max(self.child_mb, read_memory_mb(child, "VmHWM"))
                self.children.add(child)
        self._known = below
        with contextlib.suppress(OSError, TypeError):
            self.sum_mb = max(self.sum_mb, sum_memory_mb(self._pid, "VmRSS"))

    def list_rows(self) -> dict[str, float]:
        """Return the figures: the server's peak, a child's (0 without), of all."""
        return {
            "peak memory of the server, MB": read_memory_mb(self._pid, "VmHWM"),
            "peak memory of a child process of it, MB": self.child_mb,
            "peak memory of all of them at a time, MB": self.sum_mb,
        }


@contextlib.contextmanager
def watching(pid: int) -> Iterator[Peaks]:
    """Watch the memory of a server until the block ends."""
    peaks, is_over = Peaks(pid), threading.Event()

    def watch() -> None:
        """Look again and again."""
        while not is_over.wait(LOOK_S):
            peaks.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        is_over.set()
        thread.join()


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used; they suffer less than times do
    when others use the machine too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def format_fedmem_command(program: Path, folder: Path) -> list[str]:
    """Return the command of the server under test, its root inside the folder."""
    return [sys.executable, str(program), "serve", "--root", f"{folder}/root", "--port"]


def make_environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of a server whose home is this folder."""
    same = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8"}
    return {**same, "MCP_TOKEN": AI_TOKEN, "SYNC_TOKEN": SYNC_TOKEN, **more}


def end_process(process: subprocess.Popen) -> None:
    """End a process and wait for it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    process.kill()  # does nothing to a process that has ended
    process.wait()


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, more: dict[str, str] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Run a server; give its port, process id and seconds to the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = make_environment(folder, more or {})
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
        end_process(process)


class Pipe:
    """Guard a server that is spoken to in lines, over its standard streams."""

    def __init__(self, process: subprocess.Popen):
        """Take a process whose streams are pipes."""
        self._process = process
        self._numbers = itertools.count(1)

    def send(self, method: str, params: dict) -> int:
        """Send a request and return its id."""
        message = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method}
        line = json.dumps(message | {"params": params}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return message["id"]

    def receive(self) -> tuple[int, dict]:
        """Return the id and the result of the next answer; raise BenchError."""
        while line := self._process.stdout.readline():
            message = json.loads(line)
            if "id" in message and "method" not in message:
                return message["id"], require_result(message)
        raise BenchError("a server ended, or was too slow and was ended")

    def ask(self, method: str, params: dict) -> dict:
        """Send a request and return its result, nothing else being under way."""
        self.send(method, params)
        return self.receive()[1]


@contextlib.contextmanager
def talking(
    command: list[str], folder: Path, more: dict[str, str]
) -> Iterator[tuple[Pipe, int, float]]:
    """Run a server on pipes; give it, its process id and seconds to the first answer;
    end it when all that takes longer than several minutes."""
    env, ends = make_environment(folder, more), subprocess.PIPE
    with open(folder / "pipe.log", "wb") as err:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=ends, stdout=ends, stderr=err, env=env, cwd=folder
        )
    watch = threading.Timer(5 * WAIT_S, process.kill)
    watch.start()
    try:
        pipe = Pipe(process)
        pipe.ask("initialize", INITIALIZE)
        pipe.ask("tools/list", {})
        yield pipe, process.pid, time.perf_counter() - started_s
    finally:
        watch.cancel()
        end_process(process)
        process.stdin.close()
        process.stdout.close()


# ---- 3. Load: many requests at a time ---------------------------------------
# One loop in a process of its own; each connection is kept alive and has one request
# under way. Servers take turns and medians count: any machine is disturbed at times.
# The loop takes about 15 us a request: against a server in C it makes 20,000 a second.


@dataclasses.dataclass(frozen=True)
class Load:
    """Describe a load; `requests` makes those of a connection by number and header.

    The answers of the round count; without a warm-up all do, up to the last one, which
    is the only fair way with servers that take seconds.
    """

    port: int
    connections: int
    requests: Callable[[int, bytes], Iterator[bytes]]
    warm_up_s: float
    round_s: float


def repeat_request(request: bytes, number: int, header: bytes) -> Iterator[bytes]:
    """Yield the same request without end, whatever the connection."""
    return itertools.repeat(add_header(request, header))


def fly(
    sock: socket.socket, requests: Iterator[bytes], until_s: float, done: list
) -> Iterator[None]:
    """Send request after request; note end and seconds; yield to wait for bytes.

    An answer that ends with the body of the one before is whole: the same request is
    mostly answered the same, and the first answer was looked at.
    """
    body, now_s = b"", time.perf_counter()
    while (started_s := now_s) < until_s:
        sock.sendall(next(requests))
        yield
        received = sock.recv(RECEIVE_BYTES)
        is_good = received.startswith(b"HTTP/1.1 200 ")
        if not (body and is_good and received.endswith(body)):
            while count_missing(received) > 0:
                yield
                received += (arrived := sock.recv(RECEIVE_BYTES))
                if not arrived:
                    raise BenchError("under load a server closed a connection")
            body = received.partition(b"\r\n\r\n")[2]
            if re.search(rb'"isError": ?true|"error": ?\{', body):
                raise BenchError(f"under load a server answered {body[:400]!r}")
        now_s = time.perf_counter()
        done.append((now_s, now_s - started_s))


def sum_round(times_s: list[float], span_s: float) -> tuple[float, float, float]:
    """Return answers a second, p50 and p99 in ms; raise BenchError without answers."""
    if not times_s:
        raise BenchError(f"under load no answer came within {span_s:.1f} s")
    ranked_ms = sorted(took_s * 1e3 for took_s in times_s)
    p99_ms = ranked_ms[int(len(ranked_ms) * 0.99)]
    return len(ranked_ms) / span_s, median(ranked_ms), p99_ms


def run_load(load: Load) -> tuple[tuple[float, float, float], list[int]]:
    """Return a round's figures and how many requests each connection had answered;
    runs in the load process."""
    logs: list[list] = [[] for _ in range(load.connections)]
    with select.epoll() as poll, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(open_socket(load.port)) for _ in logs]
        streams = [load.requests(n, join_session(s)) for n, s in enumerate(socks)]
        for sock in socks:
            sock.setblocking(False)  # a time limit would cost a system call each time
        begin_s = time.perf_counter() + load.warm_up_s
        end_s, flights = begin_s + load.round_s, {}
        for sock, stream, log in zip(socks, streams, logs, strict=True):
            poll.register(sock, select.EPOLLIN)
            flights[sock.fileno()] = flight = fly(sock, stream, end_s, log)
            next(flight)
        while flights:
            if not (events := poll.poll(WAIT_S)):
                raise BenchError(f"under load no answer came within {WAIT_S:.0f} s")
            for fd, _ in events:
                if next(flights[fd], "landed") == "landed":
                    poll.unregister(fd)
                    del flights[fd]
    done = list(itertools.chain(*logs))
    if not load.warm_up_s:
        end_s = max(ended_s for ended_s, _ in done) + 1e-9
    times_s = [took_s for ended_s, took_s in done if begin_s <= ended_s < end_s]
    return sum_round(times_s, end_s - begin_s), list(map(len, logs))


@contextlib.contextmanager
def open_load_process() -> Iterator[Callable]:
    """Give a function that puts a load on from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda load: pool.apply(run_load, (load,))


def measure_load(
    servers: list[tuple[int, int]], request: bytes, connections: int, effort: Effort
) -> list[tuple]:
    """Measure servers, given by port and process id, in turns; return for each its
    median figures and the CPU microseconds it used for a request."""
    rounds: list[list[tuple]] = [[] for _ in servers]
    requests = functools.partial(repeat_request, request)
    times = effort.warm_up_s, effort.round_s
    with open_load_process() as put_on:
        for server, mine in list(zip(servers, rounds, strict=True)) * effort.rounds:
            port, pid = server
            before_s = read_cpu_s(pid)
            figures, counts = put_on(Load(port, connections, requests, *times))
            cpu_us = (read_cpu_s(pid) - before_s) / sum(counts) * 1e6
            mine.append((*figures, cpu_us))
    return [tuple(map(median, zip(*mine, strict=True))) for mine in rounds]


# ---- 4. Peers: installed below a folder, and kept ---------------------------
# Each in a virtual environment or node_modules of its own. Whatever keeps a peer from
# being measured is told in one line: `attempt` is the only door to all of them.


@dataclasses.dataclass(frozen=True)
class Peer:
    """Describe how a server is started; on pipes, or with its port as last word."""

    name: str
    command: list[str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    is_piped: bool = False


FAILURES = (BenchError, OSError, subprocess.SubprocessError, ValueError, LookupError)


def attempt(name: str, run: Callable, *args: object) -> object | None:
    """Return what a function returns; None, and one printed line, when it fails."""
    try:
        return run(*args)
    except FAILURES as error:
        why = " ".join(str(error).split())[-300:]
        print(f"\n{name} is left out: {why}", flush=True)
        return None


def run_tool(command: list, **options: object) -> str:
    """Run a command to its end and return what it printed; raise BenchError."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise BenchError(f"`{Path(command[0]).name} {command[1]}` failed: {said[-1]}")
    return done.stdout.strip()


def make_venv(folder: Path, python: str, *packages: str) -> str:
    """Install packages into a virtual environment, once; return its interpreter."""
    inside, wanted = folder.resolve() / "bin" / "python", "\n".join(packages)
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"\nInstalling {' and '.join(packages)} below {folder}", flush=True)
        run_tool([python, "-m", "venv", "--clear", folder])
        run_tool([inside, "-m", "pip", "install", "--quiet", *packages])
        mark.write_text(wanted)
    return str(inside)


def read_version(python: str, package: str) -> str:
    """Return the version of a package beside an interpreter."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return run_tool([python, "-c", code])


# "plain" is what the SDK's first example runs: sessions, answers as event streams.
# "tuned" is the fastest way it documents: stateless, JSON answers, no access log. Both
# have async tools, and answer with the very texts that fedmem answered.
VARIANTS = ("plain", "tuned")

SDK_SOURCE = '''\
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


def install_sdk(
    peers: Path, folder: Path, texts: dict[str, str], variant: str = "tuned"
) -> Peer:
    """Return the server made with the SDK, which answers these texts."""
    python = make_venv(peers / "sdk", sys.executable, "mcp>=2,<3")
    program = peers.resolve() / "sdk_server.py"
    program.write_text(SDK_SOURCE)
    for tool, text in texts.items():
        (folder / f"{tool}.txt").write_text(text)
    name = f"SDK {read_version(python, 'mcp')}, {variant}"
    return Peer(name, [python, str(program), str(folder), variant])


def find_python312() -> str:
    """Return an interpreter of Python 3.12; raise BenchError when there is none."""
    homes = (Path.home() / ".pyenv/versions", Path(sys.base_prefix).parent)
    found = [shutil.which("python3.12"), sys.executable]
    for home in homes:
        found += sorted(map(str, home.glob("3.12*/bin/python3.12")))
    code = "import sys; print(sys.version_info[:2])"
    for python in filter(None, found):
        with contextlib.suppress(*FAILURES):  # a shim may stand for nothing
            if run_tool([python, "-c", code]) == "(3, 12)":
                return python
    raise BenchError("it needs Python 3.12, which is not here")


def install_basic_memory(peers: Path, is_piped: bool = False) -> Peer:
    """Return basic-memory's server, on pipes or over HTTP."""
    place = peers / "basic-memory"
    mark = place / "installed.txt"
    python = str(place / "bin/python") if mark.exists() else find_python312()
    inside = make_venv(place, python, "basic-memory==0.22.1", "fastmcp<4")
    command = [str(Path(inside).with_name("basic-memory")), "mcp"]
    if not is_piped:
        command += ["--transport", "streamable-http", "--host", "127.0.0.1", "--port"]
    names = ("SEMANTIC_SEARCH_ENABLED", "AUTO_UPDATE")
    environment = {f"BASIC_MEMORY_{name}": "false" for name in names}
    name = f"basic-memory {read_version(inside, 'basic-memory')}"
    return Peer(name, command, environment, is_piped)


def install_server_memory(peers: Path, folder: Path) -> Peer:
    """Return the reference memory server, which keeps its file in a folder."""
    place = peers.resolve() / "server-memory"
    package = "@modelcontextprotocol/server-memory"
    inside = place / "node_modules" / package
    if not (inside / "package.json").exists():
        if not shutil.which("npm"):
            raise BenchError("npm is not installed")
        print(f"\nInstalling {package} below {place}", flush=True)
        place.mkdir(parents=True, exist_ok=True)
        run_tool(["npm", "install", "--no-fund", "--no-audit", package], cwd=place)
    about = json.loads((inside / "package.json").read_text())
    program = inside / about["bin"]["mcp-server-memory"]
    node = shutil.which("node") or "node"
    environment = {"MEMORY_FILE_PATH": f"{folder}/memory.jsonl"}
    name = f"server-memory {about['version']}"
    return Peer(name, [node, str(program)], environment, is_piped=True)


def install_restic() -> tuple[str, str]:
    """Return restic's name with its version, and its path; raise BenchError."""
    if not shutil.which("restic"):
        if os.geteuid() or not shutil.which("apt-get"):
            raise BenchError("it is not installed (Debian: apt-get install restic)")
        with contextlib.suppress(BenchError):  # the lists may do as they are
            run_tool(["apt-get", "update", "-qq"])
        run_tool(["apt-get", "install", "-y", "-qq", "restic"])
    path = shutil.which("restic") or "restic"
    return " ".join(run_tool([path, "version"]).split()[:2]), path


# ---- 5. Notes: small documents, written by many ------------------------------
# The same texts go to every server, each through its own tool. All of them are read
# back: what was acknowledged and cannot be read is lost.


def make_note(place: str, writer: int, number: int) -> tuple[str, str, str]:
    """Return the folder, the name and the text of a note."""
    text = f"note {number} of writer {writer} in {place}\n" * 20
    return f"{place}/w{writer}", f"n{number}", text


def format_fedmem_note(owner: dict, folder: str, name: str, text: str) -> tuple:
    """Return the tool of fedmem that writes a note, and its arguments."""
    path = f"{folder}/{name}.md"
    return "upload_knowledge", {**owner, "path": path, "content": text}


def format_basic_note(owner: dict, folder: str, name: str, text: str) -> tuple:
    """Return the tool of basic-memory that writes a note, and its arguments."""
    place = {"title": name, "directory": folder, **owner}
    return "write_note", {**place, "content": text}


def format_entity(owner: dict, folder: str, name: str, text: str) -> tuple:
    """Return the tool of server-memory that writes a note, and its arguments."""
    entity = {"name": f"{folder}/{name}", "entityType": "note", "observations": [text]}
    return "create_entities", {**owner, "entities": [entity]}


def iter_notes(
    form: Callable, owner: dict, place: str, writer: int, header: bytes
) -> Iterator[bytes]:
    """Yield the requests of one writer, without end."""
    for number in itertools.count():
        tool, arguments = form(owner, *make_note(place, writer, number))
        params = {"name": tool, "arguments": arguments}
        request = format_request(SYNC_TOKEN, "tools/call", params)
        yield add_header(request, header)


def read_fedmem_note(sock: socket.socket, header: bytes, owner: dict, note: tuple):
    """Return the text of a note that fedmem keeps."""
    where = {"workspace_id": owner["workspace_id"], "path": f"{note[0]}/{note[1]}.md"}
    found = call_tool(sock, SYNC_TOKEN, "read_knowledge", where)
    return json.loads(found)["content"]


def read_basic_note(sock: socket.socket, header: bytes, owner: dict, note: tuple):
    """Return the text of a note that basic-memory keeps."""
    where = {"identifier": f"{note[0]}/{note[1]}", "output_format": "json", **owner}
    found = call_tool(sock, AI_TOKEN, "read_note", where, header)
    return json.loads(found)["content"]


def count_lost(port: int, read: Callable, owner: dict, notes: list[tuple]) -> int:
    """Return how many notes cannot be read back as they were written."""
    with open_socket(port) as sock:
        header, lost = join_session(sock), 0
        for note in notes:
            try:
                text = read(sock, header, owner, note)
            except BenchError:
                text = None
            # basic-memory ends a text as it likes.
            lost += not isinstance(text, str) or text.strip() != note[2].strip()
    return lost


def list_notes(place: str, counts: list[int]) -> list[tuple]:
    """Return the notes of writers who wrote so many each."""
    pairs = ((w, n) for w, count in enumerate(counts) for n in range(count))
    return [make_note(place, *pair) for pair in pairs]


def write_notes(
    put_on: Callable, port: int, form: Callable, owner: dict, place: str, effort: Effort
) -> tuple[tuple, list[tuple]]:
    """Let 32 writers write for some seconds; return the figures and their notes."""
    requests = functools.partial(iter_notes, form, owner, place)
    figures, counts = put_on(Load(port, WRITERS, requests, 0, effort.writes_s))
    return figures, list_notes(place, counts)


def write_piped_notes(pipe: Pipe, place: str, effort: Effort) -> tuple[tuple, list]:
    """Keep 32 writes under way on one pipe; return the figures and the notes."""
    begin_s, counts = time.perf_counter(), [0] * WRITERS
    end_s = begin_s + effort.writes_s
    under_way: dict[int, tuple[int, float]] = {}

    def write(writer: int) -> None:
        """Send the next note of a writer."""
        tool, given = format_entity({}, *make_note(place, writer, counts[writer]))
        request_id = pipe.send("tools/call", {"name": tool, "arguments": given})
        under_way[request_id] = writer, time.perf_counter()

    for writer in range(WRITERS):
        write(writer)
    times_s = []
    while under_way:
        request_id, _ = pipe.receive()
        writer, started_s = under_way.pop(request_id)
        counts[writer] += 1
        now_s = time.perf_counter()
        times_s.append(now_s - started_s)
        if now_s < end_s:
            write(writer)
    return sum_round(times_s, now_s - begin_s), list_notes(place, counts)


def count_lost_entities(pipe: Pipe, notes: list[tuple]) -> int:
    """Return how many notes are not in the graph as they were written."""
    asked = {"name": "read_graph", "arguments": {}}
    result = pipe.ask("tools/call", asked)
    graph = json.loads(result["content"][0]["text"])
    kept = {entity["name"]: entity["observations"] for entity in graph["entities"]}
    return sum(kept.get(f"{folder}/{name}") != [text] for folder, name, text in notes)


# ---- 6. Transcript: made, not real ------------------------------------------
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


# ---- 7. Corpus: sessions by the thousand ------------------------------------
# Their bytes are distributed as in real transcripts: tool results, each twice; injected
# context; signatures; metadata; a few percent of conversation. Words follow Zipf's law,
# every project has its own names, and every session says some words that no other says.

FREQUENT = (
    "the to a of and is in it that we for this on with be not as was are if have from "
    "or but by at can so then when which there all will should need does has how what "
    "why did fix test file error build server change run function add use call value "
    "line data user type set get new first after before still only same more code"
).split()
WORDS, TOPICS = 30_000, 20  # of all conversations; of one session
SESSION_BYTES = (30_000, 20_000_000)  # the shortest and the longest
PLACES = ("user", "assistant", "command", "output")  # where a rare word is planted
RARE_WORDS = 8  # in every session, two for each place
CODE_SHAPES = (
    "def {}({}, {}):",
    "    {} = {}.{}({})",
    "    if {} is None or not {}:",
    '        raise {}("{} {}")',
    "    # {} {} {} {}",
    "    for {}, {} in {}.{}():",
    "        self.{} = {}[{}]",
    "    return {}({}, {}={})",
    "    assert {} == {}, {}",
    '    log.debug("{} %s", {})',
    "",
)
LOG_SHAPES = (
    "2026-05-%02d 10:%02d:{n} INFO {}.{}: {} {} %x",
    "{}/{}.py::{} PASSED [%3d%%] %d {n}",
    "ERROR {}: {} of {} failed after %d ms ({} %x)",
    'npm WARN {} "{}": {} %d %d',
    "-rw-r--r-- 1 dev dev %6d May %d {}_{}.txt",
    "  File {}/{}.py, line %d, in {} at 0x%x",
    "{} {} {} %d {} %d",
)
COMMANDS = (
    "python3 -m pytest -q",
    "git log -p --",
    "ls -la",
    "npm run {}",
    "cat",
    "make",
)


@dataclasses.dataclass(frozen=True)
class Project:
    """Hold what the sessions of one project speak of and look at."""

    names: list[str]
    paths: list[str]
    files: list[list[str]]
    log_shapes: list[str]


@dataclasses.dataclass(frozen=True)
class Needle:
    """Hold a session's name and what it alone says."""

    session_id: str
    workspace_id: str
    words: list[str]
    phrase: str
    pair: str
    question: str

    @property
    def key(self) -> tuple[str, str]:
        """Return what a hit on this session is known by."""
        return self.workspace_id, self.session_id


@functools.cache
def make_vocabulary() -> tuple[list[str], list[float]]:
    """Return the words of all conversations, common ones first, and summed weights."""
    rng = random.Random("vocabulary")
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "un")]
    made = {"".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(WORDS)}
    words = FREQUENT + rng.sample(sorted(made), len(made))
    return words, list(itertools.accumulate(1 / (n + 2.7) for n in range(len(words))))


@functools.lru_cache(maxsize=8)
def make_project(number: int) -> Project:
    """Return a project's names, files and log lines, the same for the same number."""
    rng = random.Random(f"project-{number}")
    words, sums = make_vocabulary()
    parts = iter(rng.choices(words, cum_weights=sums, k=9_000))
    names = ["_".join(pair) for pair in zip(parts, parts, strict=True)]
    names[::2] = [re.sub("_(.)", lambda m: m[1].upper(), name) for name in names[::2]]
    weights = list(itertools.accumulate(1 / (n + 5) for n in range(len(names))))

    def fill(shapes: list[str], known: int) -> list[str]:
        """Put names into shapes: no more than so many, as files keep to their own."""
        own = rng.choices(names, cum_weights=weights, k=known)
        flow = iter(rng.choices(own, k=sum(shape.count("{}") for shape in shapes)))
        return [
            shape.format(*itertools.islice(flow, shape.count("{}")), n="%d")
            for shape in shapes
        ]

    paths = [f"src/{each}.py" for each in fill(["{}/{}"] * 90, 200)]
    files = []
    for _ in paths:
        shapes = rng.choices(CODE_SHAPES, k=rng.randint(30, 500))
        files.append(fill(shapes, 40))
    logs = fill(rng.choices(LOG_SHAPES, k=800), 1_000)
    return Project(names, paths, files, logs)


def make_rare_word(number: int, syllables: int = 5) -> str:
    """Return a word that no vocabulary has, another for every number."""
    left, letters = (number * 1_234_567 + 89) % 20**syllables, ""
    for _ in range(syllables):
        left, syllable = divmod(left, 20)
        letters += "jqxz"[syllable // 5] + "aeiou"[syllable % 5]
    return letters + "k"


def make_needle(number: int, total: int, workspace_id: str) -> Needle:
    """Return what session `number` of so many alone says."""
    rng = random.Random(f"needle-{number}")
    vocabulary, _ = make_vocabulary()
    first = number * RARE_WORDS
    words = [make_rare_word(n) for n in range(first, first + RARE_WORDS)]
    for n in range(3, RARE_WORDS, len(PLACES)):  # outputs hold error codes
        words[n] = f"ZX{first + n:06d}"
    side = int(total**0.5) + 1  # each half of a pair is in about so many sessions
    pair = [make_rare_word(n, 3) for n in (number % side, side + number // side)]
    frequent = " ".join(rng.sample(FREQUENT[-40:], 2))
    return Needle(
        session_id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        workspace_id=workspace_id,
        words=words,
        phrase=" ".join(rng.sample(vocabulary[300:1500], 3)),
        pair=" ".join(pair),
        question=f"why did {frequent} {' '.join(pair)}?",
    )


class Scribe:
    """Make up one session's content, and count what its bytes are."""

    def __init__(self, needle: Needle, project: Project):
        """Take what the session alone says and what its project looks at."""
        self.rng = random.Random(needle.session_id)
        self.needle, self.project = needle, project
        self.shares: Counter = Counter()
        self.is_late = False  # large enough: what is to be said is said now
        self.moment_s = 1_767_600_000 + self.rng.randrange(320 * 86_400)
        self.topics = self.rng.sample(make_vocabulary()[0][500:10_000], TOPICS)
        self.plants = {place: needle.words[n::4] for n, place in enumerate(PLACES)}
        said = self.plants["user"] + [f"{w} came first" for w in [needle.pair]]
        self.plants["user"] = [f"Look at {each}." for each in said]
        done = self.plants["assistant"] + [needle.phrase]
        self.plants["assistant"] = [f"The cause was {each}." for each in done]

    def take_plant(self, place: str) -> str:
        """Return what is to be planted here, mostly nothing."""
        plants = self.plants[place]
        if self.is_late:
            text = " ".join(plants)
            plants.clear()
            return text
        return plants.pop() if plants and self.rng.random() < 0.3 else ""

    def is_done(self) -> bool:
        """Say whether the session is large enough and has said its words."""
        return self.is_late and not any(self.plants.values())

    def plan_steps(self) -> Iterator[int]:
        """Yield once for each use of a tool in a turn; end early when late."""
        for number in range(self.rng.randint(1, 12)):
            yield number
            if self.is_late:
                return

    def make_time(self) -> str:
        """Return a time some seconds after the last one."""
        self.moment_s += self.rng.randint(1, 20)
        shape = f"%Y-%m-%dT%H:%M:%S.{self.rng.randrange(1000):03d}Z"
        return time.strftime(shape, time.gmtime(self.moment_s))

    def make_id(self) -> str:
        """Return a random UUID."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def make_noise(self, size: int) -> str:
        """Return what does not compress, as signatures do not."""
        return base64.b64encode(self.rng.randbytes(size)).decode()

    def make_prose(self, sentences: int, place: str = "") -> str:
        """Return some sentences, with a rare word now and then."""
        rng, (words, sums) = self.rng, make_vocabulary()
        lengths = rng.choices(range(5, 19), k=sentences)
        flow = rng.choices(words, cum_weights=sums, k=sum(lengths))
        flow[4::9] = rng.choices(self.topics, k=len(flow[4::9]))
        flow[7::11] = rng.choices(self.project.names[:400], k=len(flow[7::11]))
        ends = itertools.accumulate(lengths)
        made = [
            " ".join(flow[end - length : end]).capitalize() + "."
            for end, length in zip(ends, lengths, strict=True)
        ]
        if place:
            made.append(self.take_plant(place))
            self.shares["conversation"] += sum(map(len, made))
        return " ".join(made).strip()

    def use_tool(self) -> tuple[str, dict, str, dict]:
        """Return a tool's name and input, its result as shown and as kept beside."""
        tools = (self.run_command, self.read_file, self.grep_files, self.edit_file)
        weights = (1, 0, 0, 0) if self.is_late else (45, 25, 15, 15)
        (tool,) = self.rng.choices(tools, weights)
        name, given, shown, kept = tool()
        self.shares["tool inputs"] += len(json.dumps(given))
        self.shares["tool results"] += len(json.dumps(shown))
        return name, given, shown, kept

    def run_command(self) -> tuple[str, dict, str, dict]:
        """Return a command and what it printed."""
        rng, project = self.rng, self.project
        command = f"{rng.choice(COMMANDS)} {rng.choice(project.paths)}"
        command = f"{command} {self.take_plant('command')}".rstrip()
        count = 1 + min(20 if self.is_late else 600, int(rng.lognormvariate(2.6, 1.2)))
        lines = []
        shapes = rng.choices(project.log_shapes, k=8)  # one program printed them all
        for shape in rng.choices(shapes, k=count):
            slots = shape.count("%") - 2 * shape.count("%%")
            numbers = (rng.randrange(10 ** rng.randint(1, 6)) for _ in range(slots))
            lines.append(shape % tuple(numbers))
        if count < 40 and (plant := self.take_plant("output")):
            lines.insert(rng.randrange(count), f"fatal: {plant}: not found")
        shown = "\n".join(lines)
        given = {"command": command, "description": self.make_prose(1)}
        kept = {"stdout": shown, "stderr": "", "interrupted": False, "isImage": False}
        return "Bash", given, shown, kept

    def read_file(self) -> tuple[str, dict, str, dict]:
        """Return a look at a file, as a tool shows it and as it keeps it."""
        lines, path = self._choose_file()
        first = self.rng.choice((0, 0, self.rng.randrange(len(lines))))
        part = lines[first : first + self.rng.randint(20, 400)]
        shown = "\n".join(f"{n:6}\t{each}" for n, each in enumerate(part, first + 1))
        about = {"filePath": path, "content": "\n".join(part), "numLines": len(part)}
        about |= {"startLine": first + 1, "totalLines": len(lines)}
        return "Read", {"file_path": path}, shown, {"type": "text", "file": about}

    def grep_files(self) -> tuple[str, dict, str, dict]:
        """Return a search through the files."""
        found = []
        for _ in range(self.rng.randint(1, 12)):
            lines, path = self._choose_file()
            numbers = self.rng.choices(range(len(lines)), k=self.rng.randint(1, 6))
            found += [f"{path}:{n + 1}:{lines[n]}" for n in numbers]
        given = {"pattern": self.rng.choice(self.project.names), "path": "src"}
        shown = "\n".join(found)
        kept = {"mode": "content", "content": shown, "numLines": len(found)}
        return "Grep", given | {"output_mode": "content"}, shown, kept

    def edit_file(self) -> tuple[str, dict, str, dict]:
        """Return a change to a file, which is kept with the whole file."""
        lines, path = self._choose_file()
        first, count = self.rng.randrange(len(lines)), self.rng.randint(1, 12)
        old = lines[first : first + count]
        new = [f"{each}  # {self.rng.choice(self.topics)}" for each in old]
        new += self.rng.choices(lines, k=self.rng.randint(0, 15))
        given = {"file_path": path, "old_string": "\n".join(old)}
        given["new_string"] = "\n".join(new)
        view = "\n".join(f"{n:6}\t{each}" for n, each in enumerate(new, first + 1))
        shown = f"The file {path} has been updated. Here is the result:\n{view}"
        patch = [f"-{each}" for each in old] + [f"+{each}" for each in new]
        kept = {**given, "originalFile": "\n".join(lines), "structuredPatch": patch}
        return "Edit", given, shown, kept

    def _choose_file(self) -> tuple[list[str], str]:
        """Return the lines and the path of some file, the first ones more often."""
        number = int(len(self.project.paths) * self.rng.random() ** 2)
        return self.project.files[number], f"/home/dev/app/{self.project.paths[number]}"


@functools.cache
def make_injected() -> str:
    """Return what clients put into every session: instructions, skills, tools."""
    needle = make_needle(-1, 1, "")
    scribe = Scribe(needle, make_project(0))
    sentences = [scribe.make_prose(1) for _ in range(500)]  # they repeat themselves
    return " ".join(scribe.rng.choices(sentences, k=1_600))  # about 120 KB


def iter_claude_session(scribe: Scribe, min_bytes: int) -> Iterator[dict]:
    """Yield the records of a session of Claude Code, the common part left out."""
    injected = make_injected()[: min_bytes // 4]
    for start in range(0, len(injected), 15_000):
        part = [{"content": injected[start : start + 15_000]}]
        yield {
            "type": "attachment",
            "attachment": {"type": "listing"},
            "rendered": part,
        }
    while not scribe.is_done():
        yield _make_claude("user", scribe.make_prose(scribe.rng.randint(1, 8), "user"))
        backups = {p: {"version": 1} for p in scribe.project.paths[:12]}
        snapshot = {"trackedFileBackups": backups, "timestamp": scribe.make_time()}
        yield {"type": "file-history-snapshot", "snapshot": snapshot}
        for _ in scribe.plan_steps():
            yield from _iter_claude_step(scribe)
        text = scribe.make_prose(scribe.rng.randint(6, 30), "assistant")
        yield _make_claude("assistant", [{"type": "text", "text": text}])
        yield {"type": "system", "subtype": "turn_duration", "durationMs": 22_700}


def _iter_claude_step(scribe: Scribe) -> Iterator[dict]:
    """Yield one use of a tool: the thought, the call, the result, what is kept."""
    request = {"requestRef": scribe.make_id(), "hash": scribe.rng.randbytes(90).hex()}
    yield {"type": "api-request", **request}
    signature = scribe.make_noise(scribe.rng.randint(100, 700))
    thought = {"type": "thinking", "thinking": "", "signature": signature}
    yield _make_claude("assistant", [thought])
    if scribe.rng.random() < 0.5:
        text = scribe.make_prose(scribe.rng.randint(1, 4), "assistant")
        yield _make_claude("assistant", [{"type": "text", "text": text}])
    name, given, shown, kept = scribe.use_tool()
    call = {"type": "tool_use", "id": f"toolu_{scribe.rng.randbytes(12).hex()}"}
    yield _make_claude("assistant", [{**call, "name": name, "input": given}])
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": shown}
    yield _make_claude("user", [result]) | {"toolUseResult": kept}


def _make_claude(role: str, content: str | list) -> dict:
    """Return the record of one message, with what an assistant's one repeats."""
    message: dict = {"role": role, "content": content}
    if role == "assistant":
        counts = {"input_tokens": 10, "cache_read_input_tokens": 0, "output_tokens": 5}
        usage = {**counts, "server_tool_use": {"web_search_requests": 0}}
        usage |= {"service_tier": "standard", "inference_geo": "", "iterations": []}
        message |= {"id": "msg_1", "type": "message", "model": "claude-opus-5-5"}
        message |= {"stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
    return {"type": role, "message": message}


def iter_codex_session(scribe: Scribe, min_bytes: int) -> Iterator[dict]:
    """Yield the records of a session of Codex, the common part left out."""
    injected = make_injected()[: min(min_bytes // 4, 20_000)]
    about = {"id": scribe.needle.session_id, "cwd": "/home/dev/app", "source": "cli"}
    about["base_instructions"] = {"text": injected}
    yield {"type": "session_meta", "payload": about}
    while not scribe.is_done():
        context = {"type": "turn_context", "payload": {"cwd": "/home/dev/app"}}
        yield context
        yield {"type": "world_state", "payload": {"state": {"body": injected[:6_000]}}}
        yield from _iter_codex_said(scribe, "user", scribe.rng.randint(1, 8))
        for _ in scribe.plan_steps():
            yield from _iter_codex_step(scribe)
        yield from _iter_codex_said(scribe, "assistant", scribe.rng.randint(6, 30))


def _iter_codex_said(scribe: Scribe, role: str, sentences: int) -> Iterator[dict]:
    """Yield a message as an item and once more as an event, as Codex does."""
    text = scribe.make_prose(sentences, role)
    kind, item = {
        "user": ("input_text", "UserMessage"),
        "assistant": ("output_text", "AgentMessage"),
    }[role]
    payload = {
        "type": "message",
        "role": role,
        "content": [{"type": kind, "text": text}],
    }
    if role == "user":
        payload["internal_chat_message_metadata_passthrough"] = {
            "content_item_kinds": ["user.text"]
        }
    yield {"type": "response_item", "payload": payload}
    told = {"type": item, "content": [{"type": "text", "text": text}]}
    yield {"type": "event_msg", "payload": {"type": "item_completed", "item": told}}


def _iter_codex_step(scribe: Scribe) -> Iterator[dict]:
    """Yield one use of a tool: the thought, the call, the result, the counters."""
    noise = scribe.make_noise(scribe.rng.randint(300, 1_200))
    thought = {"type": "reasoning", "summary": [], "encrypted_content": noise}
    yield {"type": "response_item", "payload": thought}
    name, given, shown, _ = scribe.use_tool()
    call = {"call_id": f"call_{scribe.rng.randbytes(12).hex()}"}
    asked = {"type": "function_call", "name": name, "arguments": json.dumps(given)}
    yield {"type": "response_item", "payload": {**asked, **call}}
    output = {"type": "function_call_output", "output": shown}
    yield {"type": "response_item", "payload": {**output, **call}}
    event = {"type": "exec_command_end", "aggregated_output": shown, "exit_code": 0}
    yield {"type": "event_msg", "payload": event}
    counts = {"input_tokens": 1, "cached_input_tokens": 0, "output_tokens": 1}
    usage = {"type": "token_count", "info": dict.fromkeys(("total", "last"), counts)}
    yield {"type": "event_msg", "payload": usage}


def iter_session_lines(scribe: Scribe, is_codex: bool, min_bytes: int) -> Iterator:
    """Yield the lines of one session until it is large enough and says its words."""
    make = iter_codex_session if is_codex else iter_claude_session
    same = {"userType": "external", "entrypoint": "cli", "cwd": "/home/dev/app"}
    same |= {"sessionId": scribe.needle.session_id, "version": "2.1.330"}
    same |= {"gitBranch": "main"}
    uid = None
    for number, record in enumerate(make(scribe, min_bytes)):
        if is_codex:
            line = {"timestamp": scribe.make_time(), "ordinal": number, **record}
        else:
            line = {"parentUuid": uid, "isSidechain": False, **record}
            line["uuid"] = uid = scribe.make_id()
            line |= {"timestamp": scribe.make_time(), **same}
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        yield (data := text.encode() + b"\n")
        min_bytes -= len(data)
        scribe.is_late = min_bytes <= 0


def write_session(job: tuple) -> tuple[int, Counter]:
    """Write one session as requests ready to be sent; return its bytes and shares."""
    folder, number, project, needle, write_token, min_bytes = job
    scribe = Scribe(needle, make_project(project))
    path = folder / f"{number}.jsonl"
    with open(path, "wb") as file:
        file.writelines(iter_session_lines(scribe, number % 5 == 4, min_bytes))
    owner = {"workspace_id": needle.workspace_id, "write_token": write_token}
    session = {**owner, "session_id": needle.session_id}
    for part, piece in enumerate(iter_pieces(path, 0, session)):
        params = {"name": "upload_session", "arguments": piece}
        request = format_request(SYNC_TOKEN, "tools/call", params)
        (folder / f"{number}-{part}.request").write_bytes(request)
    size = path.stat().st_size
    path.unlink()
    return size, scribe.shares


def plan_sizes(raw_bytes: int) -> list[int]:
    """Return the sizes of a corpus's sessions: most are short, some are very long."""
    rng = random.Random("sizes")
    low, high = SESSION_BYTES[0], min(SESSION_BYTES[1], raw_bytes // 8)
    sizes: list[int] = []
    while (left := raw_bytes - sum(sizes)) > 0:
        wanted = int(rng.lognormvariate(12.9, 1.1))
        sizes.append(max(low, min(wanted, high, left)))
    return sizes


def write_corpus(owners: list[dict], folder: Path, raw_bytes: int) -> tuple:
    """Write a corpus as requests; return its needles, raw bytes and their shares."""
    sizes = plan_sizes(raw_bytes)
    jobs, needles = [], []
    for number, size in enumerate(sizes):
        project = number * len(owners) // len(sizes)  # one after the other: see cache
        owner = owners[project]
        needle = make_needle(number, len(sizes), owner["workspace_id"])
        needles.append(needle)
        job = folder, number, project, needle, owner["write_token"], size
        jobs.append(job)
    shares, raw = Counter(), 0
    with multiprocessing.get_context("spawn").Pool() as pool:
        for size, counted in pool.imap_unordered(write_session, jobs, chunksize=8):
            raw += size
            shares += counted
    return needles, raw, shares


# ---- 8. Questions: searches whose answers are known -------------------------
# Asked over HTTP through search_sessions, as an assistant asks; timed at the client,
# with one request at a time. A found session is known by workspace and session id.

RARE = "one rare word"  # the kind that rg is asked for as well
EVERYWHERE = "The cause was"  # every session says it
LOCOMO_SHA256 = "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4"
LOCOMO_CATEGORIES = (
    "multi-hop",
    "temporal",
    "open-domain",
    "single-hop",
    "adversarial",
)
NOT_RUN = "published, not run here"


@dataclasses.dataclass(frozen=True)
class Question:
    """Hold a question, its category and the sessions that hold the evidence."""

    text: str
    category: int
    workspace_id: str
    gold: frozenset[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Hold the sessions found for a question, the best first, and the milliseconds."""

    found: list[tuple[str, str]]
    took_ms: float
    note: str = ""
    cursor: str = ""

    def recall(self, gold: frozenset, top: int, if_none: float = 0.0) -> float:
        """Return the share of the right sessions among the first ones."""
        return len(gold & set(self.found[:top])) / len(gold) if gold else if_none

    def hit(self, gold: frozenset, top: int) -> float:
        """Return 1 when a right session is among the first ones, else 0."""
        return float(bool(gold & set(self.found[:top])))

    def reciprocal_rank(self, gold: frozenset) -> float:
        """Return one over the rank of the first right session, 0 for none."""
        ranks = (n for n, key in enumerate(self.found, 1) if key in gold)
        return 1 / next(ranks, float("inf"))


def ask(sock: socket.socket, query: str, mode: str = "words", **where: str) -> Answer:
    """Search sessions and return what is found."""
    arguments = {"query": query, "mode": mode, "limit": 10, **where}
    params = {"name": "search_sessions", "arguments": arguments}
    params["_meta"] = {"fedmem/format": "json"}
    request = format_request(AI_TOKEN, "tools/call", params)
    started_s = time.perf_counter()
    result = exchange(sock, request)
    took_ms = (time.perf_counter() - started_s) * 1e3
    page = json.loads(result["content"][0]["text"])
    found = [(hit["workspace_id"], hit["session_id"]) for hit in page["hits"]]
    return Answer(found, took_ms, page.get("note") or "", page.get("cursor") or "")


def ask_on(
    sock: socket.socket, query: str, mode: str, enough: int, **where: str
) -> Answer:
    """Search until the answer is complete, or so many hits are found; an answer with a
    cursor is a step of a scan. Return the hits of all steps, and what all took."""
    found, took_ms, cursor = [], 0.0, ""
    for _ in range(STEPS):
        more = {"cursor": cursor} if cursor else {}
        answer = ask(sock, query, mode, **where, **more)
        found += answer.found
        took_ms += answer.took_ms
        cursor = answer.cursor
        if not cursor or len(found) >= enough:
            break
    return Answer(found, took_ms, cursor=cursor if len(found) < enough else "")


def read_lag(port: int) -> int | None:
    """Return how many writes are not indexed, None while that is not known."""
    found = re.search(r"(?m)^fedmem_index_lag (\d+)", read_metrics(port))
    return int(found[1]) if found else None


def wait_until_fresh(port: int) -> float | None:
    """Wait until nothing is left to index; return the seconds, None without index."""
    started_s = told_s = time.perf_counter()
    while True:
        lag, now_s = read_lag(port), time.perf_counter()
        if lag == 0:
            return now_s - started_s
        told_s = told_s if lag is None else now_s
        if now_s > told_s + WAIT_S:  # while an index is made anew there is none
            print("\nThe server names no `fedmem_index_lag`: it searches by scanning.")
            return None
        if now_s > started_s + FRESH_S:
            print(f"\nNOT FRESH: {lag} writes not indexed after {FRESH_S:.0f} s.")
            return now_s - started_s
        time.sleep(0.05)


def pick_percentiles(times_ms: list[float]) -> list[float]:
    """Return the median and the 95th and 99th percentile."""
    ranked = sorted(times_ms)
    return [ranked[int((len(ranked) - 1) * share + 0.5)] for share in (0.5, 0.95, 0.99)]


def read_locomo(path: Path, conversations: int | None) -> list[dict]:
    """Return the first conversations of a LoCoMo file; warn when it is another one."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != LOCOMO_SHA256:
        print("\nWARNING: this is not the file that published figures are about.")
    whole = json.loads(data)
    chosen = whole[:conversations]
    if len(chosen) < len(whole):
        print(f"\nThe first {len(chosen)} of {len(whole)} conversations: for tuning.")
    return chosen


def make_locomo_id(sample_id: str, name: str) -> str:
    """Return a UUID for a session or a turn: ids that no question can match."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{sample_id} {name}"))


def iter_locomo_sessions(sample: dict) -> Iterator[tuple[str, str]]:
    """Yield id and transcript of every session of a conversation."""
    talk, sample_id = sample["conversation"], sample["sample_id"]
    for name in sorted(talk):
        if not re.fullmatch(r"session_\d+", name) or not talk[name]:
            continue
        session_id = make_locomo_id(sample_id, name.removeprefix("session_"))
        said = datetime.strptime(talk[f"{name}_date_time"], "%I:%M %p on %d %B, %Y")
        same = {"sessionId": session_id, "cwd": "/home/dev", "version": "2.1.330"}
        same["timestamp"] = said.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        lines, uid = [], None
        for turn in talk[name]:
            role = "user" if turn["speaker"] == talk["speaker_a"] else "assistant"
            texts = [f"{turn['speaker']}: {turn['text']}", turn.get("blip_caption")]
            parts = [{"type": "text", "text": text} for text in texts if text]
            line = {"parentUuid": uid, "isSidechain": False, "type": role}
            line["message"] = {"role": role, "content": parts}
            line["uuid"] = uid = make_locomo_id(sample_id, turn["dia_id"])
            lines.append(json.dumps(line | same) + "\n")
        yield session_id, "".join(lines)


def make_questions(sample: dict, workspace_id: str) -> list[Question]:
    """Return a conversation's questions; evidence is read as far as it is readable."""
    ids = {session_id for session_id, _ in iter_locomo_sessions(sample)}
    questions = []
    for row in sample["qa"]:
        evidence = " ".join(map(str, row.get("evidence") or ()))  # some hold several
        numbers = {int(n) for n in re.findall(r"D:?(\d+):\d", evidence)}
        named = {make_locomo_id(sample["sample_id"], str(n)) for n in numbers}
        gold = frozenset((workspace_id, session_id) for session_id in named & ids)
        place = row["category"], workspace_id
        questions.append(Question(row["question"], *place, gold))
    return questions


def fill_locomo(sock: socket.socket, samples: list[dict]) -> list[Question]:
    """Upload every session, a workspace for each conversation; return the questions."""
    questions = []
    for sample in samples:
        owner = register(sock, sample["sample_id"])
        for session_id, content in iter_locomo_sessions(sample):
            session = {**owner, "session_id": session_id, "content": content}
            call_tool(sock, SYNC_TOKEN, "upload_session", session)
        questions += make_questions(sample, owner["workspace_id"])
    return questions


# ---- 9. Commands: measure and print -----------------------------------------
# Each gets an empty folder, removed afterwards. A row is a label, our figure, a peer
# and its figure or None. A ratio above 1 speaks for fedmem; more is better only per
# second.

NO_PEER = "not measured (--peers DIR)"


def format_figure(figure: float | str | None) -> str:
    """Return a figure with three digits, words as they are, a dash for nothing."""
    if isinstance(figure, (int, float)):
        return f"{figure:,.{2 - (figure >= 10) - (figure >= 100)}f}"
    return figure or "-"


def format_ratio(label: str, ours: object, theirs: object) -> str:
    """Return how many times better ours is, a dash where that cannot be told."""
    upper, lower = (ours, theirs) if "/s" in label else (theirs, ours)
    if not isinstance(upper, (int, float)) or not isinstance(lower, (int, float)):
        return "-"
    return f"{upper / lower:.{1 + (upper < 2 * lower)}f}x" if lower else "-"


def format_row(
    label: str, ours: float | str, peer: str, theirs: float | str | None
) -> tuple:
    """Return the cells of a row: what is to be told, and the ratio of two figures."""
    ratio = format_ratio(label, ours, theirs)
    return label, format_figure(ours), peer, format_figure(theirs), ratio


def print_rows(title: str, header: tuple, rows: Iterable[tuple]) -> None:
    """Print one Markdown table of ready cells under its title."""
    print(f"\n### {title}\n")
    for row in (header, ("---",) * len(header), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


def print_table(title: str, rows: list[tuple]) -> None:
    """Print one Markdown table of figures, each beside a peer's, under its title."""
    header = ("what", "fedmem", "peer", "peer's figure", "ratio")
    print_rows(title, header, [format_row(*row) for row in rows])


def print_compared(
    title: str, builds: list[dict[str, object]], peers: dict[str, tuple]
) -> None:
    """Print figures of one or two builds, ours last, beside those of peers: for a label
    a peer's name and its figure."""
    *before, ours = builds
    header = ("what", *["before"] * len(before), "fedmem")
    header += (*["ratio to before"] * len(before), "peer", "peer's figure", "ratio")
    rows = []
    for label, mine in ours.items():
        peer, theirs = peers.get(label, ("-", None))
        olds = [old.get(label) for old in before]
        cells = [label, *map(format_figure, (*olds, mine))]
        cells += [format_ratio(label, mine, old) for old in olds]
        last = format_figure(theirs), format_ratio(label, mine, theirs)
        rows.append((*cells, peer, *last))
    print_rows(title, header, rows)


def list_builds(args: argparse.Namespace) -> dict[str, Path]:
    """Return the programs to measure, ours last."""
    before = {"before": args.before} if args.before else {}
    return before | {"fedmem": args.program}


def format_own_rows(rows: list[tuple]) -> list[tuple]:
    """Return rows of what no peer does."""
    return [(label, figure, "no counterpart", None) for label, figure in rows]


def sum_files(folder: Path, pattern: str) -> int:
    """Return the bytes of all files below a folder that fit a pattern."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def fill_server(sock: socket.socket) -> dict[str, dict]:
    """Put a document into each of some workspaces; return the calls to measure."""
    for number in range(WORKSPACES):
        owner = register(sock, f"project-{number}")
        document = {**owner, "path": "notes/bench.md", "content": DOCUMENT}
        call_tool(sock, SYNC_TOKEN, "upload_knowledge", document)
    where = {"workspace_id": owner["workspace_id"], "path": "notes/bench.md"}
    return {"list_workspaces": {}, "read_knowledge": where}


def start_sdk(stack: contextlib.ExitStack, *given: object) -> tuple[str, tuple]:
    """Start a server made with the SDK; return its name, and port and process id."""
    peer, folder = install_sdk(*given), given[1]
    return peer.name, stack.enter_context(running(peer.command, folder))[:2]


def cmd_http(args: argparse.Namespace, folder: Path) -> None:
    """Print requests a second and latency of two tools, against each SDK server."""
    effort, peers, rows = args.effort, [], []
    with contextlib.ExitStack() as stack:
        command = format_fedmem_command(args.program, folder)
        servers = [stack.enter_context(running(command, folder))[:2]]
        sock = stack.enter_context(open_socket(servers[0][0]))
        calls = fill_server(sock)
        texts = {name: call_tool(sock, AI_TOKEN, name, calls[name]) for name in calls}
        for variant in VARIANTS if args.peers else ():
            given = args.peers, folder, texts, variant
            if found := attempt(f"SDK {variant}", start_sdk, stack, *given):
                peers.append(found[0])
                servers.append(found[1])
        for tool, connections in itertools.product(calls, CONNECTIONS):
            params = {"name": tool, "arguments": calls[tool]}
            request = format_request(AI_TOKEN, "tools/call", params)
            ours, *others = measure_load(servers, request, connections, effort)
            labels = [f"{tool}, {connections} at once: {unit}" for unit in LOAD_UNITS]
            for number, label in enumerate(labels):
                rows += [
                    (label, ours[number], peer, theirs[number])
                    for peer, theirs in zip(peers, others, strict=True)
                ] or [(label, ours[number], NO_PEER, None)]
    order = peers or [NO_PEER]
    rows.sort(key=lambda row: order.index(row[2]))
    about = f"Tool calls: medians of {effort.rounds} rounds of {effort.round_s} s"
    print_table(about, rows)


def measure_start(peer: Peer, folder: Path, idle_s: float) -> tuple[float, float]:
    """Start a server, end it; return the ms to its first answer and its MB after some
    idle seconds, 0 when it is not to idle."""
    start = talking if peer.is_piped else running
    with start(peer.command, folder, peer.environment) as (_, pid, took_s):
        time.sleep(idle_s)
        return took_s * 1e3, sum_memory_mb(pid, "VmRSS") if idle_s else 0


def list_starters(args: argparse.Namespace, folder: Path) -> list[Peer]:
    """Return what is started: fedmem in both ways, then the peers that there are."""
    # As the installer does it: imported by a launcher, so Python keeps it compiled.
    place = folder / "installed"
    place.mkdir()
    shutil.copy(args.program, place / "fedmem.py")
    code = "import sys, fedmem; sys.stdout.write(fedmem.LAUNCHER)"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=place, check=True, capture_output=True
    )
    (place / "run.py").write_bytes(made.stdout)
    script = format_fedmem_command(args.program, folder)
    python, _, *words = script
    launcher = [python, "-I", str(place / "run.py"), *words]
    found = [Peer("as the service", launcher), Peer("as a script", script)]
    if args.peers:
        texts = {"list_workspaces": "", "read_knowledge": ""}
        tries = [
            attempt("SDK", install_sdk, args.peers, folder, texts),
            attempt("basic-memory", install_basic_memory, args.peers, True),
            attempt("server-memory", install_server_memory, args.peers, folder),
        ]
        found += filter(None, tries)
    return found


def cmd_startup(args: argparse.Namespace, folder: Path) -> None:
    """Print the time from spawn to first answer and the memory of an idle server."""
    effort, starters = args.effort, list_starters(args, folder)
    starts: dict[str, list[float]] = {peer.name: [] for peer in starters}
    memory_mb: dict[str, float] = {}
    for number in range(effort.starts + 2):  # one to fill caches, one to idle
        is_last = number == effort.starts + 1
        for peer in list(starters):
            mine = starts[peer.name]
            if not is_last and sum(mine) / 1e3 > effort.starts_s:
                continue
            idle_s = effort.idle_s if is_last else 0
            got = attempt(peer.name, measure_start, peer, folder, idle_s)
            if not got:
                starters.remove(peer)
            elif is_last:
                memory_mb[peer.name] = got[1]
            elif number:
                mine.append(got[0])
    rows = []
    measured: list = starters[2:]
    for own in starters[:2]:
        pair = median(starts[own.name]), memory_mb[own.name]
        names = "spawn to first answer, ms", "idle memory, MB"
        for peer in measured or [None]:
            theirs = (None, None)
            if peer:
                theirs = median(starts[peer.name]), memory_mb[peer.name]
            for what, ours, other in zip(names, pair, theirs, strict=True):
                label = f"{own.name}: {what}"
                rows.append((label, ours, peer.name if peer else NO_PEER, other))
    about = f"Start, to the answer to tools/list: medians of up to {effort.starts}"
    print_table(about, rows)


def cmd_workers(args: argparse.Namespace, folder: Path) -> None:
    """Print requests and durable writes a second with one process and with two."""
    effort, counts = args.effort, ("1", "2")
    cells: dict[str, list[str]] = {workers: [] for workers in counts}
    with contextlib.ExitStack() as stack:
        servers = []
        for workers in counts:
            place = folder / workers
            place.mkdir()
            command = format_fedmem_command(args.program, place)
            command[-1:] = ["--workers", workers, "--port"]
            servers.append(stack.enter_context(running(command, place))[:2])
            with open_socket(servers[-1][0]) as sock:
                calls = fill_server(sock)
        for tool, given in calls.items():  # both servers have given the same names
            params = {"name": tool, "arguments": given}
            request = format_request(AI_TOKEN, "tools/call", params)
            found = measure_load(servers, request, 8, effort)
            for workers, (rate, _, p99_ms, _) in zip(counts, found, strict=True):
                cells[workers] += [f"{rate:,.0f}", f"{p99_ms:.1f}"]
        put_on = stack.enter_context(open_load_process())
        for workers, (port, _) in zip(counts, servers, strict=True):
            with open_socket(port) as sock:
                owner = register(sock, "writers")
            form = format_fedmem_note
            got = [
                write_notes(put_on, port, form, owner, f"r{n}", effort)
                for n in range(effort.writes_rounds)
            ]
            notes = [note for _, mine in got for note in mine]
            lost = count_lost(port, read_fedmem_note, owner, notes)
            rate = median(figures[0] for figures, _ in got)
            cells[workers] += [f"{rate:,.0f}", str(lost)]
    header = ("workers", "list_workspaces, req/s", "p99 ms")
    header += ("read_knowledge, req/s", "p99 ms", "durable writes/s", "lost")
    about = f"8 connections; {WRITERS} writers of notes; medians of rounds"
    print_rows(about, header, [(w, *mine) for w, mine in cells.items()])


@dataclasses.dataclass
class Writing:
    """Gather what rounds of writers did to one server; `write` makes one round."""

    name: str
    write: Callable[[str], tuple[tuple, list[tuple]]]
    count_lost: Callable[[list[tuple]], int]
    figures: list[tuple] = dataclasses.field(default_factory=list)
    notes: list[tuple] = dataclasses.field(default_factory=list)

    def run_round(self, place: str) -> bool:
        """Let the writers write into a place of their own; say that it was done."""
        figures, notes = self.write(place)
        self.figures.append(figures)
        self.notes += notes
        return True

    def summarize(self) -> list:
        """Return the medians, and how many of the notes are lost."""
        lost = attempt(self.name, self.count_lost, self.notes)
        share = lost if lost is None else f"{lost:,} of {len(self.notes):,}"
        return [*map(median, zip(*self.figures, strict=True)), share]


def open_basic_memory(
    stack: contextlib.ExitStack, peers: Path, folder: Path
) -> tuple[str, int, dict]:
    """Start basic-memory over HTTP; return name, port and what every call takes."""
    peer, place = install_basic_memory(peers), folder / "basic-memory-home"
    place.mkdir()
    server = stack.enter_context(running(peer.command, place, peer.environment))
    owner = {"project": "main"}
    tool, given = format_basic_note(owner, *make_note("first", 0, 0))
    with open_socket(server[0]) as sock:  # its first write takes seconds
        call_tool(sock, AI_TOKEN, tool, given, join_session(sock))
    return peer.name, server[0], owner


def write_to_basic_memory(
    stack: contextlib.ExitStack,
    args: argparse.Namespace,
    folder: Path,
    put_on: Callable,
) -> Writing:
    """Return the rounds of basic-memory, which is started."""
    name, port, owner = open_basic_memory(stack, args.peers, folder)
    given = port, format_basic_note, owner
    return Writing(
        f"{name}, over HTTP, no fsync",
        lambda place: write_notes(put_on, *given, place, args.effort),
        functools.partial(count_lost, port, read_basic_note, owner),
    )


def write_to_server_memory(
    stack: contextlib.ExitStack, args: argparse.Namespace, folder: Path
) -> Writing:
    """Return the rounds of server-memory, which is started."""
    peer = install_server_memory(args.peers, folder)
    server = talking(peer.command, folder, peer.environment)
    pipe, _, _ = stack.enter_context(server)
    return Writing(
        f"{peer.name}, over stdio, no fsync",
        lambda place: write_piped_notes(pipe, place, args.effort),
        functools.partial(count_lost_entities, pipe),
    )


def write_to_build(
    stack: contextlib.ExitStack,
    args: argparse.Namespace,
    folder: Path,
    put_on: Callable,
) -> Writing:
    """Return the rounds of the build before, which is started."""
    place = folder / "before"
    place.mkdir()
    command = format_fedmem_command(args.before, place)
    port = stack.enter_context(running(command, place))[0]
    owner = register(stack.enter_context(open_socket(port)), "writers")
    given = port, format_fedmem_note, owner
    return Writing(
        "before, each synced too",
        lambda place: write_notes(put_on, *given, place, args.effort),
        functools.partial(count_lost, port, read_fedmem_note, owner),
    )


def cmd_writers(args: argparse.Namespace, folder: Path) -> None:
    """Print how fast 32 writers of notes are served, and how many notes are lost."""
    effort = args.effort
    with contextlib.ExitStack() as stack:
        put_on = stack.enter_context(open_load_process())
        command = format_fedmem_command(args.program, folder)
        port = stack.enter_context(running(command, folder))[0]
        owner = register(stack.enter_context(open_socket(port)), "writers")
        form = format_fedmem_note
        ours = Writing(
            "fedmem",
            lambda place: write_notes(put_on, port, form, owner, place, effort),
            functools.partial(count_lost, port, read_fedmem_note, owner),
        )
        others = []
        if args.before:
            others.append(write_to_build(stack, args, folder, put_on))
        if args.peers:
            given = stack, args, folder
            others += [
                attempt("basic-memory", write_to_basic_memory, *given, put_on),
                attempt("server-memory", write_to_server_memory, *given),
            ]
        writings = [ours, *filter(None, others)]
        for number in range(effort.writes_rounds):
            ours.run_round(f"r{number}")
            for each in writings[1:]:
                if not attempt(each.name, each.run_round, f"r{number}"):
                    writings.remove(each)
        rows = [each.summarize() for each in writings]
    names = "acknowledged writes/s", "p50 ms", "p99 ms"
    table = []
    for number, what in enumerate((*names, "notes lost")):
        mine = rows[0][number]
        table += [
            (what, mine, each.name, theirs[number])
            for each, theirs in zip(writings[1:], rows[1:], strict=True)
        ] or [(what, mine, NO_PEER, None)]
    about = f"{WRITERS} writers of notes: medians of {effort.writes_rounds} rounds of "
    print_table(f"{about}{effort.writes_s} s; fedmem syncs each to the disk", table)
    print("\nLost: acknowledged, but not there or not the same when read back.")


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
    size_mb = args.size_mb or args.effort.upload_mb
    append_lines(transcript, lines, size_mb * 1_000_000)
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
    table = format_own_rows(list(rows.items()))
    print_table(f"Upload of {size / 1e6:.0f} MB", table)
    print(f"\nbyte-exact: {'yes' if is_byte_exact(folder, transcript) else 'NO'}")


def prepare_client(
    folder: Path, port: int, program: Path, transcripts: Path | None = None
) -> dict[str, str]:
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
    claude = transcripts or folder / "claude"
    places = {"CLAUDE_CONFIG_DIR": str(claude), "CODEX_HOME": f"{folder}/codex"}
    env = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8", **places}
    return {**env, "MEMORY_SYNC_HOME": str(home)}


def time_command(command: list[str], env: dict[str, str], data: bytes = b"") -> float:
    """Return the seconds that a command takes; raise BenchError when it fails."""
    started_s = time.perf_counter()
    done = subprocess.run(command, env=env, input=data, capture_output=True)
    if done.returncode:
        raise BenchError(f"{command[-1]} failed: {done.stdout + done.stderr!r}")
    return time.perf_counter() - started_s


class Backup:
    """Guard fresh repositories of restic, the peer of a first sync."""

    def __init__(self, folder: Path, source: Path):
        """Take where repositories go and what is backed up."""
        self.name, self._restic = install_restic()
        self._folder, self._source = folder, source
        self.repository = folder / "restic-0"
        self._env: dict[str, str] = {}

    def begin(self, number: int) -> None:
        """Make a repository, which counts for nothing."""
        self.repository = self._folder / f"restic-{number}"
        names = {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "bench"}
        self._env = make_environment(self._folder, names)
        time_command([self._restic, "init", "--no-cache"], self._env)

    def time_backup(self) -> float:
        """Return the seconds that one backup takes."""
        words = ["backup", "--no-cache", "--quiet", str(self._source)]
        return time_command([self._restic, *words], self._env)


def ping(port: int, end: Path) -> list[float]:
    """Call list_workspaces every now and then until a file is there; return the
    milliseconds; runs in a process of its own."""
    times_ms = []
    with open_socket(port) as sock:
        request = format_request(AI_TOKEN, "tools/call", {"name": "list_workspaces"})
        while not end.exists():
            started_s = time.perf_counter()
            exchange(sock, request)
            times_ms.append((time.perf_counter() - started_s) * 1e3)
            time.sleep(PING_S)
    return times_ms


@contextlib.contextmanager
def pinging(port: int, end: Path) -> Iterator[list[float]]:
    """Call list_workspaces until the block ends; then the list has the milliseconds."""
    times_ms: list[float] = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(os.getpid)  # it is up
        result = pool.apply_async(ping, (port, end))
        try:
            yield times_ms
        finally:
            end.touch()
            times_ms += result.get(WAIT_S)
            end.unlink()


def measure_pings(
    port: int, place: Path, quiet_s: float, work: Callable[[], object]
) -> tuple[object, dict[str, float]]:
    """Call a quiet server for a while, then one at work; return what the work returned,
    and how long the calls took."""
    end = place / "end"
    with pinging(port, end) as quiet_ms:
        time.sleep(quiet_s)
    with pinging(port, end) as busy_ms:
        done = work()
    (_, _, quiet), (p50, _, p99) = map(pick_percentiles, (quiet_ms, busy_ms))
    return done, {
        "list_workspaces, quiet, p99 ms": quiet,
        "list_workspaces while it uploads and indexes, p50 ms": p50,
        "list_workspaces while it uploads and indexes, p99 ms": p99,
        "that over quiet, p99": p99 / quiet,
    }


@dataclasses.dataclass
class Syncing:
    """Gather what first syncs with one build took, and how to repeat the last one."""

    program: Path
    figures: list[tuple] = dataclasses.field(default_factory=list)
    pings: dict[str, float] = dataclasses.field(default_factory=dict)
    place: Path | None = None
    port: int = 0
    peaks: Peaks | None = None
    sync: Callable[[], float] | None = None

    def run_first(
        self, stack: contextlib.ExitStack, place: Path, source: Path, quiet_s: float
    ) -> None:
        """Start a server, sync to it, and wait for its index; with quiet seconds, call
        it before and meanwhile, and do not count the time of that."""
        place.mkdir()
        command = format_fedmem_command(self.program, place)
        self.port, pid, _ = stack.enter_context(running(command, place))
        self.place, self.peaks = place, stack.enter_context(watching(pid))
        env = prepare_client(place, self.port, self.program, source)
        launcher = f"{env['MEMORY_SYNC_HOME']}/bin/memory_sync.py"
        command = [sys.executable, launcher, "sync"]
        self.sync = functools.partial(time_command, command, env)
        if quiet_s:
            given = self.port, place, quiet_s, self.sync_again
            _, self.pings = measure_pings(*given)
            return
        took_s = self.sync()
        self.figures.append((took_s, took_s + (wait_until_fresh(self.port) or 0.0)))

    def sync_again(self) -> float:
        """Return the seconds of one more sync; wait for the index."""
        took_s = self.sync()
        wait_until_fresh(self.port)
        return took_s


def measure_first_syncs(
    args: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> tuple[list[Syncing], Backup | None, list[float]]:
    """Sync a folder for the first time, in turns with a peer's backup of it; return
    what that took. One more round, with calls, counts for these only and leaves its
    servers running."""
    effort, source = args.effort, folder / "claude"
    backup = attempt("restic", Backup, folder, source) if args.peers else None
    syncings, theirs_s = [Syncing(p) for p in list_builds(args).values()], []
    for number in range(effort.sync_rounds + 1):
        is_last = number == effort.sync_rounds
        quiet_s = effort.quiet_s if is_last else 0.0
        with contextlib.ExitStack() as round_:
            turns = list(enumerate(syncings))[:: -1 if number % 2 else 1]
            for which, syncing in turns:
                place = folder / f"round-{number}-{which}"
                given = stack if is_last else round_, place, source, quiet_s
                syncing.run_first(*given)
        if backup and not is_last:
            backup.begin(number)
            theirs_s.append(backup.time_backup())
    return syncings, backup, theirs_s


def cmd_sync(args: argparse.Namespace, folder: Path) -> None:
    """Print what a first sync costs, and one without changes over many files."""
    effort = args.effort
    sessions = args.sessions or effort.sync_sessions
    small = args.small_sessions or effort.sync_small_sessions
    project, lines, raw = folder / "claude/projects/-bench", iter_lines(seed=2), 0
    project.mkdir(parents=True)
    for number in range(sessions):
        append_lines(project / f"s{number}.jsonl", lines, SYNC_SESSION_BYTES)
        raw += (project / f"s{number}.jsonl").stat().st_size
    labels = f"first sync of {sessions} sessions, MB/s", "the same with its index, MB/s"
    labels += "archived, % of raw", f"{small:,} small sessions more, s"
    labels += (f"sync of {sessions + small:,} without changes, s",)
    with contextlib.ExitStack() as stack:
        syncings, backup, theirs_s = measure_first_syncs(args, folder, stack)
        rows, peers = [], {}
        for each in syncings:
            firsts_s, wholes_s = zip(*each.figures, strict=True)
            rates = [raw / 1e6 / median(took_s) for took_s in (firsts_s, wholes_s)]
            kept = sum_files(each.place / "root" / "workspaces", "*.gz") / raw * 100
            rows.append(dict(zip(labels, (*rates, kept), strict=False)))
        if backup:
            kept = sum_files(backup.repository, "*") / raw * 100
            peers[labels[0]] = raw / 1e6 / median(theirs_s)
            peers[labels[2]] = kept
        for number in range(small):
            append_lines(project / f"t{number}.jsonl", lines, 1_000)
        runs = [each.sync_again for each in syncings]
        runs += [backup.time_backup] if backup else []
        took_s = [run() for run in runs]
        again = [[run() for run in runs] for _ in range(effort.sync_repeats)]
        idle_s = list(map(median, zip(*again, strict=True)))
        for mine, each, *both in zip(rows, syncings, took_s, idle_s, strict=False):
            mine |= dict(zip(labels[3:], both, strict=True)) | each.pings
            mine |= each.peaks.list_rows()
        if backup:
            peers |= {labels[3]: took_s[-1], labels[4]: idle_s[-1]}
    name = backup.name if backup else NO_PEER
    about = f"Sync of {raw / 1e6:.0f} MB: medians of {effort.sync_rounds} fresh starts"
    print_compared(about, rows, {what: (name, peers.get(what)) for what in labels})


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
                for _ in range(args.effort.hook_runs)
            ]
            took_ms, bare_ms = (median(each) * 1e3 for each in zip(*pairs, strict=True))
            rows.append((f"{event} hook, ms", took_ms))
            rows.append((f"{event} hook over `python3 -c ''`, ms", took_ms - bare_ms))
    about = f"Hooks: medians of {args.effort.hook_runs}"
    print_table(about, format_own_rows(rows))


def format_shares(values: Iterable[float]) -> list[str]:
    """Return the cells of figures between 0 and 1."""
    return [f"{value:.3f}" for value in values]


def average(rows: list[tuple]) -> list[float]:
    """Return the mean of each column."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def print_global(pairs: list[tuple[Question, Answer]]) -> None:
    """Print recall over one corpus of all conversations, as basic-memory counts."""
    groups = {"all questions": (1, 2, 3, 4, 5), "categories 1-4": (1, 2, 3, 4)}
    groups |= {f"{n}: {name}": (n,) for n, name in enumerate(LOCOMO_CATEGORIES, 1)}
    rows = []
    for label, categories in groups.items():
        scores = [
            (a.recall(q.gold, 5), a.recall(q.gold, 10), a.reciprocal_rank(q.gold))
            for q, a in pairs
            if q.category in categories
        ]
        if scores:
            cells = format_shares(average(scores))
            rows.append((f"fedmem, {label}", str(len(scores)), *cells))
    for name, recall, rank in (
        ("Basic Memory, main", "0.745", "0.618"),
        ("Basic Memory, #994: vectors and FTS", "0.823", "0.718"),
    ):
        rows.append((f"{name} ({NOT_RUN})", "1986", recall, "-", rank))
    about = "One corpus of all conversations; fractional; no evidence counts 0"
    print_rows(about, ("what", "questions", "R@5", "R@10", "MRR"), rows)


def print_per_conversation(pairs: list[tuple[Question, Answer]]) -> None:
    """Print recall within each conversation, as MemPalace and as deja-vu count."""
    recalls = [(a.recall(q.gold, 5, 1.0), a.recall(q.gold, 10, 1.0)) for q, a in pairs]
    rows = [("fedmem", str(len(recalls)), *format_shares(average(recalls)))]
    for name, *cells in (
        ("MemPalace raw session", "-", "0.603"),
        ("MemPalace hybrid v5", "0.837", "0.889"),
        ("MemPalace bge-large hybrid", "-", "0.924"),
        ("MemPalace with a language model's rerank of 15", "-", "0.963"),
    ):
        rows.append((f"{name} ({NOT_RUN})", "1986", *cells))
    about = "Within each conversation; fractional; no evidence counts 1"
    print_rows(about, ("what", "questions", "R@5", "R@10"), rows)
    scores = [
        (a.hit(q.gold, 1), a.hit(q.gold, 5), a.reciprocal_rank(q.gold))
        for q, a in pairs
        if q.gold
    ]
    rows = [("fedmem", str(len(scores)), *format_shares(average(scores)))]
    deja = f"deja-vu 0.18, 7 ms ({NOT_RUN})", "1982", "0.696", "0.857", "0.766"
    about = "Within each conversation; questions with evidence; any right session"
    print_rows(about, ("what", "questions", "hit@1", "hit@5", "MRR"), [*rows, deja])


def format_times(label: str, times_ms: list[float]) -> tuple:
    """Return the cells of a row of latencies."""
    cells = (f"{each:,.1f}" for each in pick_percentiles(times_ms))
    return label, str(len(times_ms)), *cells


def measure_locomo(args: argparse.Namespace, folder: Path) -> None:
    """Print how well the questions of LoCoMo find their sessions, and how fast."""
    samples = read_locomo(args.locomo, args.conversations)
    command = format_fedmem_command(args.program, folder)
    with running(command, folder) as (port, pid, _):
        with open_socket(port) as sock:
            questions = fill_locomo(sock, samples)
        fresh_s = wait_until_fresh(port)
        with open_socket(port) as sock:
            everywhere = [ask(sock, q.text) for q in questions]
            within = [ask(sock, q.text, workspace_id=q.workspace_id) for q in questions]
        peak_mb = sum_memory_mb(pid)
    bare = sum(not q.gold for q in questions)
    cut = sum(bool(a.note) for a in everywhere + within)
    fresh = "no index" if fresh_s is None else f"index fresh {fresh_s:.1f} s later"
    print(f"\n{len(questions)} questions, {bare} without evidence; {fresh}.")
    if cut:
        print(f"{cut} searches of {2 * len(questions)} were cut off or had a note.")
    print_global(list(zip(questions, everywhere, strict=True)))
    print_per_conversation(list(zip(questions, within, strict=True)))
    rows = [
        format_times("all conversations", [a.took_ms for a in everywhere]),
        format_times("within one", [a.took_ms for a in within]),
    ]
    header = ("search, ms at the client", "questions", "p50", "p95", "p99")
    print_rows("Latency", header, rows)
    print(f"\nPeak memory of the server: {peak_mb:.0f} MB")


def write_corpus_notes(count: int) -> tuple[list[tuple], dict[str, list[tuple]]]:
    """Return notes of about 1 KB; for each kind of search queries and right notes."""
    rng, (vocabulary, sums) = random.Random("notes"), make_vocabulary()
    notes = []
    side = int(count**0.5) + 1  # each half of a pair is in about so many notes
    kinds: dict[str, list[tuple]] = {"one rare word": [], "two words": []}
    for number in range(count):
        words = rng.choices(vocabulary, cum_weights=sums, k=150)
        pair = [make_rare_word(n, 3) for n in (number % side, side + number // side)]
        words[20], words[60], words[61] = make_rare_word(number), *pair
        name = f"n{number}"
        notes.append(("search", name, " ".join(words) + "\n"))
        kinds["one rare word"].append((words[20], name))
        kinds["two words"].append((" ".join(pair), name))
    return notes, kinds


@dataclasses.dataclass(frozen=True)
class Finder:
    """Describe what finds notes: over a connection, or with port 0 without one."""

    name: str
    port: int
    find_first: Callable[[socket.socket | None, bytes, str], str]

    def measure(self, searches: list[tuple]) -> dict[str, float]:
        """Make searches one after the other; return their figures."""
        times_ms, right = [], 0
        with contextlib.ExitStack() as stack:
            sock, header = None, b""  # anew: servers close connections that lie idle
            if self.port:
                sock = stack.enter_context(open_socket(self.port))
                header = join_session(sock)
            self.find_first(sock, header, searches[0][0])
            for query, name in searches:
                started_s = time.perf_counter()
                found = self.find_first(sock, header, query)
                times_ms.append((time.perf_counter() - started_s) * 1e3)
                right += Path(found).stem == name
        names = "p50 ms", "p95 ms", "p99 ms"
        figures = dict(zip(names, pick_percentiles(times_ms), strict=True))
        return figures | {"not found first, %": 100 * (1 - right / len(searches))}


def find_fedmem_note(sock: socket.socket, header: bytes, query: str) -> str:
    """Return the path of the note that fedmem finds first, empty for none."""
    params = {"name": "search_knowledge", "arguments": {"query": query}}
    params["_meta"] = {"fedmem/format": "json"}
    result = exchange(sock, format_request(AI_TOKEN, "tools/call", params))
    hits = json.loads(result["content"][0]["text"])["hits"]
    return hits[0]["path"] if hits else ""


def find_basic_note(owner: dict, sock: socket.socket, header: bytes, query: str) -> str:
    """Return the path of the note that basic-memory finds first, empty for none."""
    asked = {"query": query, "output_format": "json", **owner}
    page = json.loads(call_tool(sock, AI_TOKEN, "search_notes", asked, header))
    return page["results"][0]["file_path"] if page["results"] else ""


def find_by_rg(folder: Path, sock: None, header: bytes, query: str) -> str:
    """Return the first file in which rg finds all words of a query, empty for none."""
    found = [str(folder)]
    for word in query.split():
        command = ["rg", "-z", "-l", word, *found]
        done = subprocess.run(command, capture_output=True, text=True)
        if not (found := done.stdout.splitlines()):
            return ""
    return found[0]


def fill_notes(port: int, form: Callable, owner: dict, notes: list[tuple]) -> None:
    """Write notes one after the other."""
    with open_socket(port) as sock:
        header = join_session(sock)
        for note in notes:
            tool, given = form(owner, *note)
            call_tool(sock, SYNC_TOKEN, tool, given, header)


def fill_basic_memory(
    stack: contextlib.ExitStack, peers: Path, folder: Path, notes: list[tuple]
) -> Finder:
    """Fill basic-memory with notes; return how it finds them."""
    name, port, owner = open_basic_memory(stack, peers, folder)
    fill_notes(port, format_basic_note, owner, notes)
    finder = Finder(name, port, functools.partial(find_basic_note, owner))
    last = [(notes[-1][2].split()[20], notes[-1][1])]
    deadline_s = time.perf_counter() + WAIT_S
    while finder.measure(last)["not found first, %"]:  # it indexes after the answer
        if time.perf_counter() > deadline_s:
            raise BenchError(f"a note was not found {WAIT_S:.0f} s after its writing")
        time.sleep(0.2)
    return finder


def measure_notes(args: argparse.Namespace, folder: Path) -> None:
    """Print how fast notes are found, and how often at once."""
    notes, kinds = write_corpus_notes(args.effort.notes)
    others: list[Finder | None] = []
    with contextlib.ExitStack() as stack:
        command = format_fedmem_command(args.program, folder)
        port = stack.enter_context(running(command, folder))[0]
        with open_socket(port) as sock:
            owner = register(sock, "notes")
        fill_notes(port, format_fedmem_note, owner, notes)
        wait_until_fresh(port)
        ours = Finder("fedmem", port, find_fedmem_note)
        if args.peers:
            given = stack, args.peers, folder, notes
            others.append(attempt("basic-memory", fill_basic_memory, *given))
        if shutil.which("rg"):
            files = functools.partial(find_by_rg, folder / "root" / "workspaces")
            others.append(Finder("rg -z -l", 0, files))
        rows = []
        for kind, searches in kinds.items():
            searches = random.Random(kind).sample(searches, len(searches))
            searches = searches[: args.effort.searches]
            mine = ours.measure(searches)
            for other in filter(None, others):
                theirs = attempt(other.name, other.measure, searches) or {}
                rows += [
                    (f"{kind}: {what}", mine[what], other.name, theirs.get(what))
                    for what in mine
                ]
            if not any(others):
                rows += [(f"{kind}: {w}", mine[w], NO_PEER, None) for w in mine]
    print_table(f"Searches among {len(notes)} notes of 1 KB, one at a time", rows)


def cmd_search(args: argparse.Namespace, folder: Path) -> None:
    """Print how notes are found, and with --locomo how well sessions are."""
    place = folder / "notes"
    place.mkdir()
    measure_notes(args, place)
    if args.locomo:
        measure_locomo(args, folder)


def upload_requests(port: int, paths: list[Path]) -> None:
    """Send ready requests over one connection; raise BenchError when one fails."""
    with open_socket(port) as sock:
        for path in paths:
            receipt = json.loads(
                exchange(sock, path.read_bytes())["content"][0]["text"]
            )
            if receipt.get("status") not in ("stored", "partial"):
                raise BenchError(f"an upload was answered {receipt}")


def upload_corpus(port: int, folder: Path) -> float:
    """Upload a corpus over some connections at a time; return the seconds."""
    sessions: dict[str, list[Path]] = {}
    for path in folder.glob("*.request"):
        sessions.setdefault(path.stem.partition("-")[0], []).append(path)
    for pieces in sessions.values():
        pieces.sort(key=lambda path: int(path.stem.partition("-")[2]))
    ranked = sorted(sessions.values(), key=len, reverse=True)
    shares = [
        [path for pieces in ranked[n::UPLOAD_THREADS] for path in pieces]
        for n in range(UPLOAD_THREADS)
    ]
    started_s = time.perf_counter()
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        list(pool.map(functools.partial(upload_requests, port), shares))
    return time.perf_counter() - started_s


@dataclasses.dataclass
class Scaling:
    """Hold a build whose server is measured with a corpus, and its figures."""

    name: str
    program: Path
    place: Path
    port: int = 0
    peaks: Peaks | None = None
    figures: dict[str, object] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the server and watch its memory."""
        command = format_fedmem_command(self.program, self.place)
        with running(command, self.place) as (self.port, pid, _):
            with watching(pid) as self.peaks:
                yield

    def ingest(self, requests: Path, raw: int, quiet_s: float) -> None:
        """Upload a corpus and wait for its index, calling the server all the time."""
        raw_mb = raw / 1e6

        def work() -> tuple[float, float | None]:
            """Return the seconds of the upload and those until the index is fresh."""
            return upload_corpus(self.port, requests), wait_until_fresh(self.port)

        done, pings = measure_pings(self.port, self.place, quiet_s, work)
        upload_s, fresh_s = done
        rows = self.figures
        root = self.place / "root"
        archived = sum_files(root / "workspaces", "*.jsonl.gz")
        rows["archives over raw, %"] = archived / raw * 100
        rows["upload of raw bytes, MB/s"] = raw_mb / upload_s
        if fresh_s is not None:
            rows["index over raw, %"] = sum_files(root / "_cache", "*") / raw * 100
            rows["index fresh after the last upload, s"] = fresh_s
            rate = raw_mb / (upload_s + fresh_s)
            rows["first upload to fresh index, MB/s"] = rate
        rows |= pings
        names = self.peaks.list_rows()
        rows |= {f"uploading and indexing: {what}": mb for what, mb in names.items()}


def share_root(scalings: list[Scaling]) -> list[dict]:
    """Make one root with workspaces, and copies of it; return what uploads need: the
    same requests are for all of them."""
    first = scalings[0]
    command = format_fedmem_command(first.program, first.place)
    with running(command, first.place) as (port, _, _), open_socket(port) as sock:
        owners = [register(sock, f"project-{n}") for n in range(WORKSPACES)]
    for other in scalings[1:]:
        left_out = shutil.ignore_patterns("_cache")
        shutil.copytree(first.place / "root", other.place / "root", ignore=left_out)
    return owners


def print_corpus(needles: list[Needle], raw: int, shares: Counter, made_s: float):
    """Print what a corpus is made of."""
    rows = [(f"{n} of the raw bytes", f"{s / raw:.1%}") for n, s in shares.items()]
    rows.append(("anything else", f"{1 - sum(shares.values()) / raw:.1%}"))
    about = f"{raw / 1e6:,.0f} MB in {len(needles):,} sessions of {WORKSPACES} projects"
    print_rows(f"{about} (made in {made_s:.0f} s)", ("what", "figure"), rows)


def list_searches(needles: list[Needle], count: int) -> list[tuple[str, str, list]]:
    """Return of each kind of search its mode, its name, and the queries, where to look
    and what is right; the session found first, or nothing that could be wrong."""
    rng = random.Random("searches")
    chosen = [rng.choice(needles) for _ in range(count)]
    rare = [(rng.choice(n.words), n) for n in chosen]
    kinds = [
        ("words", "one rare word", [(word, {}, n.key) for word, n in rare]),
        ("words", "two words", [(n.pair, {}, n.key) for n in chosen]),
        ("words", "a question of 6 words", [(n.question, {}, n.key) for n in chosen]),
        ("words", "a phrase", [(f'"{n.phrase}"', {}, n.key) for n in chosen]),
    ]
    for kind, field in (("question", "question"), ("two words", "pair")):
        rows = [
            (getattr(n, field), {"workspace_id": n.workspace_id}, n.key) for n in chosen
        ]
        kinds.append(("words", f"{kind}, in one workspace", rows))
    searches = [(rf"\w{word[1:]}\b", {}, n.key) for word, n in rare]
    everywhere = [(EVERYWHERE, {}, None)] * count
    return kinds + [
        ("literal", RARE, [(word, {}, n.key) for word, n in rare]),
        ("regex", RARE, searches),
        ("literal", "in every session, first page", everywhere),
        ("auto", "words that are nowhere", [(f"{w[::-1]}q", {}, ()) for w, _ in rare]),
    ]


def measure_kind(
    sock: socket.socket, mode: str, searches: list[tuple], seconds: float
) -> tuple:
    """Make searches of one kind, as many as there is time for and one at least; return
    milliseconds, how many were right, cut off."""
    times_ms, right, cut = [], 0, 0
    deadline_s = time.perf_counter() + seconds
    for query, where, key in searches:
        if mode == "words":
            answer = ask(sock, query, mode, **where)
        else:  # some builds need steps
            enough = sys.maxsize if key is not None else 10
            answer = ask_on(sock, query, mode, enough, **where)
        times_ms.append(answer.took_ms)
        expected = [key] if key else []
        right += key is None or answer.found[:1] == expected
        cut += bool(answer.note if mode == "words" else answer.cursor)
        if time.perf_counter() > deadline_s:
            break
    return times_ms, right, cut


def measure_rg(root: Path, searches: list[tuple]) -> tuple[list[float], int]:
    """Search the archives with rg; return its milliseconds and how many it found."""
    times_ms, right = [], 0
    for pattern, _, (workspace_id, session_id) in searches:
        command = ["rg", "-z", "-l", "-e", pattern, str(root / "workspaces")]
        started_s = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        times_ms.append((time.perf_counter() - started_s) * 1e3)
        (*_, name) = done.stdout.strip().split("/")
        right += name == f"{session_id}.jsonl.gz" and workspace_id in done.stdout
    return times_ms, right


def measure_searches(
    scalings: list[Scaling], needles: list[Needle], raw: int, effort: Effort
) -> None:
    """Print the latency of every kind of search, and of rg over the archives."""
    rows, peers = [], {}
    for mode, kind, searches in list_searches(needles, effort.searches):
        label = f"`{mode}`: {kind}"
        for each in scalings:  # in turns, the same searches
            with open_socket(each.port) as sock:
                found = measure_kind(sock, mode, searches, effort.searches_s)
            times_ms, right, cut = found
            cells = f"{right / len(times_ms):.1%}", str(cut)
            rows.append((*format_times(f"{each.name}, {label}", times_ms), *cells))
            each.figures[f"{label}, p95 ms"] = pick_percentiles(times_ms)[1]
        if kind == RARE and shutil.which("rg"):
            searches = searches[: effort.scans]
            times_ms, right = measure_rg(scalings[-1].place / "root", searches)
            cells = f"{right / len(times_ms):.1%}", "-"
            rows.append((*format_times(f"`rg -z -l`, {label}", times_ms), *cells))
            peers[f"{label}, p95 ms"] = "rg -z -l", pick_percentiles(times_ms)[1]
    if not shutil.which("rg"):
        print("\nrg is not installed: nothing to compare with.")
    units = ("queries", "p50", "p95", "p99", "right first", "cut off")
    header = ("search, ms at the client", *units)
    print_rows(f"Searches among {len(needles):,} sessions", header, rows)
    for each in scalings:
        size = sum_files(each.place / "root/_cache", "*")  # else it was not fresh
        each.figures["index over raw at the end, %"] = size / raw * 100
        names = each.peaks.list_rows()
        each.figures |= {f"at the end: {what}": mb for what, mb in names.items()}
    builds = [each.figures for each in scalings]
    print_compared("All of it side by side; in steps until complete", builds, peers)


def cmd_scale(args: argparse.Namespace, folder: Path) -> None:
    """Print what corpora of some sizes cost to store, to index and to search."""
    for size_mb in args.mb or [args.effort.scale_mb]:
        place = folder / f"{size_mb}-mb-{time.monotonic_ns()}"
        requests = place / "requests"
        requests.mkdir(parents=True)
        builds = list_builds(args).items()
        scalings = [Scaling(name, path, place / name) for name, path in builds]
        for each in scalings:
            each.place.mkdir()
        started_s = time.perf_counter()
        owners = share_root(scalings)
        needles, raw, shares = write_corpus(owners, requests, size_mb * 1_000_000)
        print_corpus(needles, raw, shares, time.perf_counter() - started_s)
        with contextlib.ExitStack() as stack:
            for each in scalings:
                stack.enter_context(each.running())
                each.ingest(requests, raw, args.effort.quiet_s)
            shutil.rmtree(requests)
            seconds = args.seconds or args.effort.searches_s
            effort = dataclasses.replace(args.effort, searches_s=seconds)
            measure_searches(scalings, needles, raw, effort)
        shutil.rmtree(place)


def format_machine() -> str:
    """Return one line about this machine and this moment."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.machine()
    versions = f"Python {platform.python_version()}, Linux {platform.release()}"
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    load = f"load average {os.getloadavg()[0]:.1f}"
    return f"{os.cpu_count()} CPUs ({model}), {versions}, {now}, {load}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    beside = Path(__file__).resolve().with_name("fedmem.py")
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--peers", type=Path, metavar="DIR", help="measure others too")
    options.add_argument("--program", type=Path, default=beside, help="to measure")
    options.add_argument(
        "--quick",
        dest="effort",
        action="store_const",
        const=QUICK,
        default=FULL,
        help="a smoke run: its figures say nothing",
    )
    options.add_argument("--size-mb", type=int, help="upload: raw size")
    options.add_argument("--mb", type=int, action="append", help="scale: raw size")
    options.add_argument("--sessions", type=int, help="sync: of 0.5 MB, so many")
    options.add_argument("--small-sessions", type=int, help="sync: tiny, so many")
    options.add_argument(
        "--before", type=Path, metavar="FILE", help="an older fedmem.py, measured too"
    )
    options.add_argument(
        "--seconds", type=float, help="scale: for searches of a kind, of each build"
    )
    options.add_argument("--locomo", type=Path, metavar="FILE", help="search: data")
    options.add_argument("--conversations", type=int, help="search: the first so many")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    benches = {"http": [cmd_http], "startup": [cmd_startup], "workers": [cmd_workers]}
    benches |= {"writers": [cmd_writers], "upload": [cmd_upload], "sync": [cmd_sync]}
    benches |= {"hook": [cmd_hook], "search": [cmd_search], "scale": [cmd_scale]}
    benches["all"] = [run for (run,) in benches.values()]
    for name, run in benches.items():
        commands.add_parser(name, parents=[options]).set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.effort is QUICK:
        print("A smoke run: the figures say nothing.")
    failed = 0
    for run in args.run:
        before = format_machine()
        try:
            with tempfile.TemporaryDirectory(prefix="fedmem-bench-") as name:
                run(args, Path(name))
            print(f"\nBegun on {before}.", flush=True)
        except FAILURES as error:
            failed = 1
            print(f"bench_fedmem: {run.__name__}: {error}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
