#!/usr/bin/env python3
"""fedmem: one shared, persistent memory for every AI coding assistant you run.

The same file is the server and the client; it needs Python 3.10 or newer and
nothing else.

    python3 fedmem.py serve             start a server, print how to connect to it
    python3 fedmem.py serve --demo      look around in a memory made of samples
    python3 fedmem.py check --root DIR  compare every file with its record
    python3 fedmem.py COMMAND --help    what a command takes

Every machine + tool + project is a workspace. Everyone reads everything; writes
are scoped. Knowledge (Markdown) and verbatim transcripts are plain files under
one root; everything else in here serves them over MCP.

The rooms, bottom-up; a room uses only names of the rooms above it:

     1 Constants       versions, limits and their reasons
     2 Errors          what can go wrong, told in one sentence
     3 Small tools     time, names, JSON, sizes, logging
     4 Files           the only door to the disk
     5 Records         plain data that travels between the rooms
     6 Options         one table: flags, variables, help
     7 Secrets         tokens, signatures, masking
     8 Transcripts     Claude Code and Codex JSONL to messages
     9 Store           the files that are the truth
    11 Search          words, literal, regex over what an AI may read
    12 Tools           the thirteen handlers and how their results are shown
    13 Protocol        JSON-RPC and MCP, both eras; no sockets
    14 HTTP server     the only listening door
    20 Operate         check
    21 Commands        what each command does
    22 Command line    parser and main

Invariants, each with a test that tries to break it: the files are the truth; a
receipt means durable; nothing is overwritten silently; an archive is byte-exact;
no path leaves its workspace; two writers never lose each other's work; secrets
never reach an AI; memory is bounded.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import codecs
import collections
import contextlib
import dataclasses
import datetime
import errno
import functools
import hashlib
import hmac
import http.server
import inspect
import io
import itertools
import json
import logging
import math
import os
import re
import secrets
import select
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import unicodedata
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator

# ---- 1. Constants: versions, limits and their reasons -----------------------
# Everything that is a number or a name chosen by us, with the reason beside it.
# A limit that a user can meet is named in the sentence that refuses.

VERSION = "0.1.0"

MODERN_VERSION = "2026-07-28"  # stateless; every request describes itself
LEGACY_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
SUPPORTED_VERSIONS = (MODERN_VERSION, *LEGACY_VERSIONS)
BATCH_VERSION = "2025-03-26"  # the only revision with JSON-RPC arrays
SCOPES = ("ai", "sync")

KIB = 1024
MIB = 1024 * KIB

# HTTP. nginx.conf carries the same body limit.
MAX_BODY_BYTES = 8 * MIB  # a 4 MiB piece in base64 is 5.6 MiB, with room to spare
MAX_BODIES_IN_FLIGHT_BYTES = 64 * MIB  # eight full bodies: what 512 MB can carry
BODY_WAIT_S = 10  # how long a body waits for room before it is told to come back
LARGE_BODY_BYTES = 256 * KIB  # 8 MiB of "[]," parses to 189 MB: one at a time
MAX_REQUEST_LINE_BYTES = 8 * KIB
MAX_HEADER_BYTES = 16 * KIB  # Codex sends the largest measured headers, under 2 KiB
MAX_HEADERS = 64
MAX_CONNECTIONS = 256  # a thread each; 256 idle threads cost about 10 MB
IDLE_TIMEOUT_S = 75  # a keep-alive connection that asks nothing is closed
REQUEST_TIMEOUT_S = 60  # from the first byte of a request to its last
ANSWER_TIMEOUT_S = 120  # a client that does not read its answer is cut off
SHUTDOWN_GRACE_S = 8  # SIGTERM to exit stays under 10 s
DISCARD_BYTES = MIB  # what is read of a refused body so that its refusal arrives
DISCARD_S = 2

# JSON-RPC.
MAX_NESTING = 32  # MCP needs 8 levels; a deep body is an attack on the parser
MAX_BATCH = 20  # a legacy batch; more work belongs into more requests

# Pages. 10,000 bytes is what the smallest client shows whole (Codex, hook output).
PAGE_BYTES = 10_000
LARGE_PAGE_BYTES = 40_000  # under the 48 KB that Codex and Claude Code show
CLIP_CHARS = 2_000  # one message or tool result on a page of several
MAX_LIMIT = 1_000
MAX_OFFSET = 2**53  # what JSON numbers carry exactly
RESOURCES_PER_PAGE = 100

# What is stored.
MAX_DOCUMENT_BYTES = MIB  # 500 pages; beyond that it is not distilled knowledge
MAX_PIECE_BYTES = 4 * MIB  # raw bytes in one `data` piece
MAX_TRANSCRIPT_BYTES = 4 * 1024 * MIB
BLOCK_BYTES = MIB  # raw bytes in one gzip member: the unit a page read unpacks
COMPRESSION_LEVEL = 6  # a third of level 1's size at half its speed
MAX_PARSED_LINE_BYTES = 4 * MIB  # longer lines are archived, not shown or searched
MAX_PATH_BYTES = 240
MAX_PATH_PARTS = 8
MAX_NAME_CHARS = 200  # machine, tool, project as the caller wrote them
MAX_NOTE_CHARS = 2_000  # description, cwd, git_remote
SLUG_CHARS = 40  # three slugs, two dashes and a suffix stay under 128
LOCK_FILES = 64
PARTIAL_QUOTA_BYTES = 8 * 1024 * MIB
PARTIAL_LIFETIME_S = 7 * 86_400
MAX_WORKSPACES = 10_000
DIGEST_CACHE_ENTRIES = 4_096
HASHER_CACHE_ENTRIES = 256

# Search.
MAX_QUERY_CHARS = 500
SEARCH_BUDGET_S = 5.0
SNIPPET_CHARS = 240
MAX_SCANNED_HITS = 10_000

PARSER_VERSION = 1  # raise it when room 8 changes what a transcript shows
DEFAULT_PORT = 8000
DATA_ROOT = "/data/memory"
HOME_ROOT = "~/.local/share/fedmem"

# ---- 2. Errors: what can go wrong, told in one sentence ---------------------
# A FedmemError is a normal failure: its text is for the user and says what
# happened, to which thing, and what to do. Anything else is a bug. Caught at three
# borders only: main, the protocol's dispatch, the HTTP handler.


class FedmemError(Exception):
    """Tell the user in one sentence why something was not done."""

    http_status = 400
    rpc_code = -32602
    exit_code = 1

    def __init__(self, message: str, data: dict | None = None):
        super().__init__(message)
        self.data = data or {}


class BadRequest(FedmemError):
    """Refuse input that has the wrong form."""


class Unauthorized(FedmemError):
    """Refuse a caller without a valid token."""

    http_status = 401


class NotAllowed(FedmemError):
    """Refuse something that this caller may not do."""

    http_status = 403


class NotFound(FedmemError):
    """Say that the named thing does not exist."""

    http_status = 404


class Conflict(FedmemError):
    """Say that the state is not what the caller took it for."""

    http_status = 409


class TooLarge(FedmemError):
    """Refuse something over a limit."""

    http_status = 413


class Busy(FedmemError):
    """Ask the caller to come back later."""

    http_status = 503


class Damaged(FedmemError):
    """Say that a stored file is not what its record says."""

    http_status = 500
    rpc_code = -32603


class StorageFailed(FedmemError):
    """Say that the disk refused."""

    http_status = 507
    rpc_code = -32603


# ---- 3. Small tools: time, names, JSON, sizes, logging ----------------------
# The only place with a clock and with randomness, so that tests can replace them.

log = logging.getLogger("fedmem")


def utc_now() -> datetime.datetime:
    """Return the present time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def format_time(moment: datetime.datetime) -> str:
    """Return `moment` as ISO 8601 in UTC with milliseconds and a Z."""
    text = moment.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def format_stamp(moment: datetime.datetime) -> str:
    """Return `moment` as a file name part with microseconds: 20261122T091003.123456Z."""
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")


def read_stamp(name: str) -> str:
    """Return the ISO time that a file name begins with, empty when it has none."""
    match = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\.(\d{3})\d{3}Z", name)
    return "{}-{}-{}T{}:{}:{}.{}Z".format(*match.groups()) if match else ""


def parse_time(text: str, end: bool = False) -> datetime.datetime:
    """Return the UTC time that ISO 8601 `text` names; a bare date is its first
    instant, or its last with `end`. Raise ValueError for anything else."""
    text = text.strip()
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        text += "T23:59:59.999999" if end else "T00:00:00"
    # 3.10's fromisoformat knows neither Z nor fractions of other than 3 or 6 digits.
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.(\d+))?"
        r"(Z|z|[+-]\d\d:?\d\d)?",
        text,
    )
    if not match:
        raise ValueError(f"{text!r} is not an ISO 8601 time")
    day, clock, seconds, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    zone = zone if ":" in zone else zone[:3] + ":" + zone[3:]
    micro = ((fraction or "0") + "000000")[:6]
    moment = datetime.datetime.fromisoformat(
        f"{day}T{clock}{seconds or ':00'}.{micro}{zone}"
    )
    return moment.astimezone(datetime.timezone.utc)


def format_minute(text: str | None) -> str:
    """Return an ISO time as `2026-11-22 09:10 UTC`, for people."""
    return f"{text[:10]} {text[11:16]} UTC" if text else "unknown time"


def make_slug(text: str, max_chars: int = SLUG_CHARS) -> str:
    """Return `text` as lower-case ASCII words joined by dashes, never empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return slug[:max_chars].strip("-") or "x" + hash_text(text)[:8]


def normalise_remote(remote: str) -> str:
    """Return a git remote as host/path, so that its ssh and https forms are equal;
    credentials in it are dropped."""
    text = re.sub(r"^[a-z+]+://", "", remote.strip(), flags=re.IGNORECASE)
    text = re.sub(r"^[^/@]*@", "", text)
    text = re.sub(r"^([^/:]+):(\d+/)?/?", r"\1/", text)
    host, slash, path = text.rstrip("/").removesuffix(".git").partition("/")
    return host.lower() + slash + path


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def hash_text(text: str) -> str:
    """Return the SHA-256 of `text` in UTF-8, in hex."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def format_json(value: object) -> str:
    """Return compact JSON; lone surrogates stay escaped so that it always encodes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"))
    return text


def _refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which are not JSON."""
    raise ValueError(f"{name} is not JSON")


def parse_json(data: bytes | str) -> object:
    """Return the value of JSON in UTF-8; raise ValueError for anything else, at any
    depth and with numbers of any length."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_deeper(value: object, levels: int) -> bool:
    """Return whether `value` has containers nested more than `levels` deep."""
    layer = [value]
    for _ in range(levels + 1):
        inner: list = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        layer = [item for item in inner if isinstance(item, (dict, list))]
    return bool(layer)


def format_size(size: int) -> str:
    """Return a byte count for people: 12 B, 3.4 KB, 1.2 GB."""
    if size < 1000:
        return f"{size} B"
    for unit in ("KB", "MB", "GB", "TB"):
        size = size / 1000
        if size < 1000 or unit == "TB":
            return f"{size:.1f} {unit}"
    return f"{size} B"


def plural(count: int, noun: str) -> str:
    """Return `1 note`, `2 notes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clip(text: str, max_chars: int) -> str:
    """Return `text` cut to `max_chars`, with an ellipsis where it was cut."""
    return text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "…"


def one_line(text: str) -> str:
    """Return `text` with every run of white space as one blank."""
    return " ".join(text.split())


def escape_controls(text: str) -> str:
    """Return `text` on one printable line, so that no caller forges a log line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def split_parts(text: str, max_bytes: int) -> list[str]:
    """Return `text` in parts of at most `max_bytes` of UTF-8, cut after a line end
    where one lies in the last quarter; joined they are `text` again."""
    parts: list[str] = []
    start = 0
    while True:
        head = text[start : start + max_bytes].encode("utf-8", "replace")[:max_bytes]
        end = start + len(head.decode("utf-8", "ignore"))
        if end >= len(text):
            return [*parts, text[start:]]
        newline = text.rfind("\n", start + (end - start) * 3 // 4, end)
        end = newline + 1 if newline >= 0 else end
        parts.append(text[start:end])
        start = end


def set_up_logging(verbose: bool = False) -> None:
    """Send the log to standard error; systemd's journal adds its own times."""
    under_systemd = "JOURNAL_STREAM" in os.environ
    form = "%(message)s" if under_systemd else "%(asctime)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%dT%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


# ---- 4. Files: the only door to the disk ------------------------------------
# Paths are relative to a root and are opened component by component without
# following symbolic links, so that no path leaves its root. A durable write is: temp
# file in the same directory, write, fsync, rename, fsync of the directory. OSError
# becomes a FedmemError here.

TEMP_MARK = ".tmp-"  # no valid name begins with a dot, so none is mistaken for one

_OPEN_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)  # a planted pipe must not stop the reader


@contextlib.contextmanager
def disk_errors(relative: str) -> Iterator[None]:
    """Turn an OSError about `relative` into NotFound, NotAllowed or StorageFailed."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as e:
        raise NotFound(f"There is no file {relative!r}.") from e
    except OSError as e:
        if e.errno == errno.ELOOP:
            message = f"{relative!r} is or lies behind a symbolic link; it is not read."
            raise NotAllowed(message) from e
        if e.errno == errno.ENAMETOOLONG:
            raise BadRequest(f"The name {clip(relative, 80)!r} is too long.") from e
        reason = os.strerror(e.errno or 0)
        raise StorageFailed(
            f"The server's disk refused {relative!r} ({reason}). Nothing was "
            "acknowledged; what was there before is still there. Try again when the "
            "operator has mended it."
        ) from e


def open_directory(root: str, relative: str, create: bool = False) -> int:
    """Return a descriptor of a directory below `root`; the caller closes it.

    Follow no symbolic link. With `create` make what is missing, each level synced
    into its parent before it is used. Raise OSError.
    """
    handle = os.open(root, _OPEN_DIRECTORY)
    try:
        for part in relative.split("/") if relative else ():
            try:
                inner = os.open(part, _OPEN_DIRECTORY | _NO_FOLLOW, dir_fd=handle)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=handle)
                os.fsync(handle)
                inner = os.open(part, _OPEN_DIRECTORY | _NO_FOLLOW, dir_fd=handle)
            except NotADirectoryError as e:
                # Linux says ENOTDIR for a link opened with both flags.
                if stat.S_ISLNK(os.lstat(part, dir_fd=handle).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from e
                raise
            os.close(handle)
            handle = inner
        return handle
    except BaseException:
        os.close(handle)
        raise


@contextlib.contextmanager
def directory(root: str, relative: str, create: bool = False) -> Iterator[int]:
    """Hold a directory's descriptor for the length of a with block."""
    handle = open_directory(root, relative, create)
    try:
        yield handle
    finally:
        os.close(handle)


def split_path(relative: str) -> tuple[str, str]:
    """Return the directory and the name of a relative path."""
    parent, _, name = relative.rpartition("/")
    return parent, name


def open_file(root: str, relative: str) -> io.BufferedReader:
    """Return the regular file `relative` below `root` for reading; raise NotFound,
    NotAllowed for a symbolic link or anything that is not a regular file."""
    parent, name = split_path(relative)
    with disk_errors(relative), directory(root, parent) as handle:
        fd = os.open(name, os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK, dir_fd=handle)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotAllowed(f"{relative!r} is not a regular file; it is not read.")
        return os.fdopen(fd, "rb")


def read_file(root: str, relative: str, max_bytes: int = 64 * MIB) -> bytes:
    """Return the bytes of a file; raise NotFound, NotAllowed, or TooLarge."""
    with open_file(root, relative) as file, disk_errors(relative):
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooLarge(f"{relative!r} is over {format_size(max_bytes)}.")
    return data


def read_json_file(root: str, relative: str) -> object | None:
    """Return the value of a JSON file, None when it is missing, torn or not JSON."""
    try:
        return parse_json(read_file(root, relative))
    except (NotFound, ValueError):
        return None


def stat_file(root: str, relative: str) -> os.stat_result | None:
    """Return the stat of a regular file, None when there is none."""
    parent, name = split_path(relative)
    try:
        with directory(root, parent) as handle:
            found = os.stat(name, dir_fd=handle, follow_symlinks=False)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def list_directory(root: str, relative: str) -> list[tuple[str, os.stat_result]]:
    """Return name and stat of what is in a directory, sorted; empty without one.
    Symbolic links, sockets and the like are left out."""
    try:
        with directory(root, relative) as handle, os.scandir(handle) as entries:
            found = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
    except OSError:
        return []
    wanted = (stat.S_ISREG, stat.S_ISDIR)
    return sorted((n, s) for n, s in found if any(is_(s.st_mode) for is_ in wanted))


def walk_files(root: str, relative: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path (from `root`) and stat of every regular file below a directory."""
    for name, found in list_directory(root, relative):
        path = f"{relative}/{name}" if relative else name
        if stat.S_ISDIR(found.st_mode):
            yield from walk_files(root, path)
        else:
            yield path, found


def temp_prefix(name: str) -> str:
    """Return how the temp files of a name begin; those of one session's archives and
    records begin alike, for they share a lock."""
    stem = re.split(r"~|\.jsonl\.gz$|\.json$", name)[0]
    return f"{TEMP_MARK}{hash_text(stem)[:12]}-"


@contextlib.contextmanager
def replace_file(
    root: str, relative: str, durable: bool = True
) -> Iterator[io.BufferedWriter]:
    """Give a temp file that takes the place of `relative` when the block ends well.

    Before returning, file and directory are synced (not with durable=False: for
    caches only). When the block raises, the old file stays and the temp file goes.
    """
    parent, name = split_path(relative)
    temp = temp_prefix(name) + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
    with disk_errors(relative), directory(root, parent, create=True) as handle:
        fd = os.open(temp, flags, 0o600, dir_fd=handle)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.rename(temp, name, src_dir_fd=handle, dst_dir_fd=handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp, dir_fd=handle)
            raise
        if durable:
            os.fsync(handle)


def write_file(root: str, relative: str, data: bytes, durable: bool = True) -> None:
    """Replace a file by `data`, durably unless told otherwise."""
    with replace_file(root, relative, durable) as file:
        file.write(data)


def link_file(root: str, source: str, target: str) -> None:
    """Give a file a second name, durably; the new name keeps the old bytes when the
    first name is replaced."""
    (from_dir, from_name), (to_dir, to_name) = split_path(source), split_path(target)
    with disk_errors(target), directory(root, from_dir) as old:
        with directory(root, to_dir, create=True) as new:
            with contextlib.suppress(FileExistsError):
                os.link(from_name, to_name, src_dir_fd=old, dst_dir_fd=new)
            os.fsync(new)


def move_file(root: str, source: str, target: str) -> None:
    """Rename a file, durably in both directories."""
    (from_dir, from_name), (to_dir, to_name) = split_path(source), split_path(target)
    with disk_errors(source), directory(root, from_dir) as old:
        with directory(root, to_dir, create=True) as new:
            os.rename(from_name, to_name, src_dir_fd=old, dst_dir_fd=new)
            os.fsync(new)
            os.fsync(old)


def remove_file(root: str, relative: str) -> None:
    """Remove a file that may be missing; for temp files and caches only."""
    parent, name = split_path(relative)
    with contextlib.suppress(OSError), directory(root, parent) as handle:
        os.unlink(name, dir_fd=handle)


def remove_temps(root: str, relative: str) -> None:
    """Remove what a killed writer of `relative` left beside it. The caller holds the
    lock of that path, so no living writer's temp file is among them."""
    parent, name = split_path(relative)
    for found, _ in list_directory(root, parent):
        if found.startswith(temp_prefix(name)):
            remove_file(root, f"{parent}/{found}")


class FileLock:
    """One advisory lock file, for threads and processes alike.

    POSIX locks belong to the process and fall with the first descriptor closed, so
    the file is opened once, never closed, and a thread lock stands before it.
    """

    def __init__(self, root: str, relative: str):
        self._root = root
        self._relative = relative
        self._thread_lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._owner_pid = 0

    def _open(self) -> io.FileIO:
        """Return the lock file, opened again after a fork (locks are not inherited)."""
        if self._file is None or self._owner_pid != os.getpid():
            parent, name = split_path(self._relative)
            flags = os.O_RDWR | os.O_CREAT | _NO_FOLLOW
            with directory(self._root, parent, create=True) as handle:
                fd = os.open(name, flags, 0o600, dir_fd=handle)
            self._file = os.fdopen(fd, "r+b", buffering=0)
            self._owner_pid = os.getpid()
        return self._file

    @contextlib.contextmanager
    def hold(self, wait: bool = True) -> Iterator[io.FileIO | None]:
        """Hold the lock and give its file; give None when wait=False and it is held."""
        import fcntl  # not on Windows, where no server runs

        if not self._thread_lock.acquire(blocking=wait):
            yield None
            return
        try:
            with disk_errors(self._relative):
                file = self._open()
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    file = None
            try:
                yield file
            finally:
                if file is not None:
                    fcntl.lockf(file, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()


def cut_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of `chunks` in blocks of at most BLOCK_BYTES, each cut after
    the last line end within that many bytes; the same bytes give the same blocks."""
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= BLOCK_BYTES:
            end = pending.rfind(b"\n", 0, BLOCK_BYTES) + 1 or BLOCK_BYTES
            yield bytes(pending[:end])
            del pending[:end]
    if pending:
        yield bytes(pending)


def compress_block(block: bytes) -> bytes:
    """Return one gzip member without a time in it: equal bytes, equal member."""
    packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(block) + packer.flush()


def unpack_member(data: bytes, max_bytes: int) -> bytes:
    """Return what exactly one gzip member holds; raise BadRequest when it is not one,
    TooLarge when it holds more than `max_bytes` (a bomb is not unpacked further)."""
    unpacker = zlib.decompressobj(31)
    try:
        raw = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as e:
        raise BadRequest(f"`data` is not a gzip member: {e}.") from e
    if len(raw) > max_bytes:
        raise TooLarge(f"`data` unpacks to more than {format_size(max_bytes)}.")
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest("`data` must be one whole gzip member and nothing more.")
    return raw


def iter_members(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield archive offset and content of each gzip member from the file's position
    on; raise Damaged when the archive is torn or is not ours."""
    offset = file.tell()
    unpacker, content, taken, data = zlib.decompressobj(31), bytearray(), 0, b""
    try:
        while data := data or file.read(64 * KIB):
            content += unpacker.decompress(data, BLOCK_BYTES + 1 - len(content))
            rest = unpacker.unused_data or unpacker.unconsumed_tail
            taken += len(data) - len(rest)
            data = rest
            if len(content) > BLOCK_BYTES:
                raise Damaged(f"A block at byte {offset} holds more than 1 MiB.")
            if unpacker.eof:
                yield offset, bytes(content)
                offset += taken
                unpacker, content, taken = zlib.decompressobj(31), bytearray(), 0
    except zlib.error as e:
        raise Damaged(f"The block at byte {offset} cannot be unpacked: {e}.") from e
    if taken or content:
        raise Damaged(f"The block at byte {offset} is torn.")


# ---- 5. Records: plain data that travels between the rooms ------------------
# Frozen; parse_ and format_ turn them from and into what lies in files.


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Name one machine + tool + project, the unit that owns writes."""

    workspace_id: str
    machine: str
    tool: str
    project: str
    cwd: str = ""
    git_remote: str = ""
    description: str = ""
    created_at: str = ""


def format_workspace(workspace: Workspace) -> bytes:
    """Return the bytes of an identity.json."""
    text = json.dumps(dataclasses.asdict(workspace), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "replace") + b"\n"


def parse_workspace(value: object) -> Workspace | None:
    """Return the workspace in an identity.json's value, None when it is not one."""
    names = [field.name for field in dataclasses.fields(Workspace)]
    if not isinstance(value, dict):
        return None
    known = {n: v for n, v in value.items() if n in names and isinstance(v, str)}
    if not all(known.get(n) for n in ("workspace_id", "machine", "tool", "project")):
        return None
    return Workspace(**known)


class Entry(
    collections.namedtuple(
        "Entry", "seq time workspace action path size sha256 actor"
    )
):
    """Hold one journal line: what was committed, where, when and by whom."""

    __slots__ = ()


def format_entry(entry: Entry) -> bytes:
    """Return a journal line."""
    return format_json(entry._asdict()).encode() + b"\n"


def parse_entry(line: bytes) -> Entry | None:
    """Return the entry of a journal line, None when it is not one."""
    try:
        value = json.loads(line)
        return Entry(*(value[name] for name in Entry._fields))
    except (ValueError, KeyError, TypeError):
        return None


@dataclasses.dataclass(frozen=True)
class Document:
    """Describe one stored text: an overview or a piece of knowledge."""

    path: str
    size: int
    sha256: str
    modified: str


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Promise that a write is durable."""

    status: str
    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Message:
    """Hold one shown line of a transcript: who said what when.

    `kind` is `said` (always shown), `told` (Codex's own report of what was said) or
    `item` (what Codex sent the model: shown only where nothing was `told`).
    """

    role: str
    text: str
    time: str = ""
    kind: str = "said"


@dataclasses.dataclass(frozen=True)
class Block:
    """Say where a gzip member begins and what comes before it."""

    offset: int  # raw bytes
    archive_offset: int
    lines: int  # lines begun before it
    messages: int  # shown messages before it that are `said` or `told`
    items: int  # messages before it that are `item`
    is_cut: bool  # it begins in the middle of a line


@dataclasses.dataclass(frozen=True)
class Session:
    """Describe one archived transcript; all of it comes from the archive's bytes."""

    size: int
    sha256: str
    archive_size: int
    title: str
    start: str
    end: str
    messages: int
    lines: int
    title_rank: int
    uses_items: bool
    blocks: tuple[Block, ...]


def format_session(session: Session) -> bytes:
    """Return the bytes of the derived .json beside an archive."""
    value = {n: getattr(session, n) for n in Session.__dataclass_fields__}
    value["blocks"] = [dataclasses.astuple(block) for block in session.blocks]
    return format_json({"parser": PARSER_VERSION, **value}).encode() + b"\n"


def parse_session(value: object) -> Session | None:
    """Return the session of a derived .json's value, None when it is outdated."""
    try:
        if value.pop("parser") != PARSER_VERSION:
            return None
        blocks = tuple(Block(*block) for block in value.pop("blocks"))
        return Session(blocks=blocks, **value)
    except (AttributeError, KeyError, TypeError):
        return None


# ---- 6. Options: one table of flags, variables and help ---------------------
# A flag goes before its environment variable, the variable before the default.


@dataclasses.dataclass(frozen=True)
class Option:
    """Describe one setting of the server."""

    variable: str
    default: str
    help: str
    flag: str = ""

    @property
    def name(self) -> str:
        """Return the setting's name in the program."""
        return self.variable.lower()


OPTIONS = (
    Option(
        "MCP_TOKEN", "", "bearer token of AI clients; made at first start when not set"
    ),
    Option(
        "SYNC_TOKEN", "", "bearer token of sync clients; made at first start likewise"
    ),
    Option(
        "MEMORY_ROOT",
        "",
        f"root of all data; {DATA_ROOT} if it is there and writable, "
        f"else {HOME_ROOT}",
        "--root",
    ),
    Option("PORT", str(DEFAULT_PORT), "listen port; 0 takes any free one", "--port"),
    Option("HOST", "127.0.0.1", "listen address", "--host"),
    Option(
        "ALLOWED_HOSTS",
        "",
        "names besides the loopback ones that requests may be addressed to, "
        "without ports, separated by commas",
        "--allowed-hosts",
    ),
    Option("REDACT", "on", "mask secrets in what AI clients read: on or off"),
)


def read_settings(flags: dict[str, str | None], environment: dict) -> dict[str, str]:
    """Return every option's value by name: flag, else variable, else default; raise
    BadRequest for a value of the wrong form."""
    settings = {}
    for option in OPTIONS:
        given = flags.get(option.name)
        value = environment.get(option.variable, "") if given is None else given
        settings[option.name] = value.strip() or option.default
    if not settings["port"].isdigit() or int(settings["port"]) > 65535:
        raise BadRequest(f"PORT must be 0 to 65535, not {settings['port']!r}.")
    if settings["redact"].lower() not in ("on", "off"):
        raise BadRequest(f"REDACT must be on or off, not {settings['redact']!r}.")
    for name in ("mcp_token", "sync_token"):
        if not re.fullmatch(r"[!-~]{0,512}", settings[name]):
            raise BadRequest(f"{name.upper()} may hold printable ASCII only, no blanks.")
    if settings["mcp_token"] and settings["mcp_token"] == settings["sync_token"]:
        raise BadRequest("MCP_TOKEN and SYNC_TOKEN must differ: they open other doors.")
    settings["memory_root"] = settings["memory_root"] or find_root()
    settings["memory_root"] = os.path.realpath(
        os.path.expanduser(settings["memory_root"])
    )
    return settings


def find_root() -> str:
    """Return the root for a server that was told none."""
    usable = os.path.isdir(DATA_ROOT) and os.access(DATA_ROOT, os.W_OK)
    return DATA_ROOT if usable else HOME_ROOT


# ---- 7. Secrets: tokens, signatures, masking --------------------------------
# Bearer tokens say who calls; signatures (write_token, binding) say for which
# workspace, and are computed, never stored. Masking replaces what has the shape of a
# secret in everything an AI token may read; it looks at values, so prose survives.

TOKENS_FILE = "_meta/tokens.json"
SECRET_FILE = "_meta/secret"


@dataclasses.dataclass(frozen=True)
class Keys:
    """Hold the two bearer tokens and the key that signs."""

    mcp_token: str
    sync_token: str
    key: bytes
    key_version: int

    def scope_of(self, token: str) -> str | None:
        """Return "ai" or "sync" for a bearer token, None for any other text, in a
        time that does not tell how much of it was right."""
        given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = None
        for scope, known in (("ai", self.mcp_token), ("sync", self.sync_token)):
            if hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()):
                found = scope
        return found

    def sign(self, purpose: str, workspace_id: str) -> str:
        """Return 24 hex digits that only this server can make."""
        text = f"{purpose}\0{self.key_version}\0{workspace_id}".encode()
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:24]

    def make_write_token(self, workspace_id: str) -> str:
        """Return the proof that its holder may upload to a workspace."""
        return f"w{self.key_version}." + self.sign("write_token", workspace_id)

    def make_binding(self, workspace_id: str) -> str:
        """Return the proof that its holder registered a workspace."""
        return f"{workspace_id}." + self.sign("binding", workspace_id)

    def require_write_token(self, workspace_id: str, write_token: str) -> None:
        """Raise NotAllowed unless the write_token is this workspace's."""
        right = self.make_write_token(workspace_id)
        if not hmac.compare_digest(right.encode(), write_token.encode("utf-8", "replace")):
            raise NotAllowed(
                f"This write_token is not for workspace {workspace_id!r}. Call "
                "register_workspace for it and use the write_token it answers."
            )

    def require_binding(self, binding: str) -> str:
        """Return the workspace a binding was made for; raise NotAllowed."""
        workspace_id = binding.rpartition(".")[0]
        right = self.make_binding(workspace_id)
        if not hmac.compare_digest(right.encode(), binding.encode("utf-8", "replace")):
            raise NotAllowed(
                "This `binding` is not valid. Call register_workspace with your "
                "project and pass on the `binding` it answers, unchanged."
            )
        return workspace_id


def load_keys(root: str, settings: dict[str, str]) -> tuple[Keys, bool]:
    """Return the keys of a root and whether tokens were made now: configured tokens
    first, then those in _meta/tokens.json, made at first start."""
    with FileLock(root, "_meta/locks/keys").hold():
        secret = read_json_file(root, SECRET_FILE)
        if not isinstance(secret, dict):
            if stat_file(root, SECRET_FILE):
                raise Damaged(
                    f"{SECRET_FILE} in {root!r} is not readable JSON. Restore it from "
                    "a backup, or remove it: every client then registers anew."
                )
            remove_temps(root, SECRET_FILE)
            secret = {"key": secrets.token_hex(32), "version": 1}
            write_file(root, SECRET_FILE, format_json(secret).encode() + b"\n")
        stored = read_json_file(root, TOKENS_FILE)
        stored = stored if isinstance(stored, dict) else {}
        tokens = {
            "mcp_token": settings["mcp_token"] or stored.get("mcp_token"),
            "sync_token": settings["sync_token"] or stored.get("sync_token"),
        }
        missing = [name for name, token in tokens.items() if not token]
        for name in missing:
            tokens[name] = f"fm{name[0]}_" + secrets.token_urlsafe(32)
            stored[name] = tokens[name]
        if missing:
            write_file(root, TOKENS_FILE, format_json(stored).encode() + b"\n")
    return Keys(**tokens, key=bytes.fromhex(secret["key"]), key_version=secret["version"]), bool(missing)


@dataclasses.dataclass(frozen=True)
class SecretPattern:
    """Describe one kind of secret: a text every one contains, and its shape. A group
    named `value` is what is masked, else the whole match."""

    kind: str
    needle: str
    shape: re.Pattern


def _pattern(kind: str, needle: str, shape: str) -> SecretPattern:
    """Return a pattern whose shape does not begin or end inside a longer word."""
    return SecretPattern(kind, needle, re.compile(shape))


_START = r"(?<![A-Za-z0-9])"
_END = r"(?![A-Za-z0-9])"
SECRET_PATTERNS = (
    _pattern(
        "private-key",
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?!-----BEGIN )[\s\S]){0,20000}?"
        r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    _pattern("aws-key", "A", _START + r"A(?:KIA|SIA|ROA|IDA)[A-Z2-7]{16}" + _END),
    _pattern("github-token", "gh", _START + r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _pattern("github-token", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,255}"),
    _pattern("anthropic-key", "sk-ant-", _START + r"sk-ant-[A-Za-z0-9_-]{20,255}"),
    _pattern(
        "openai-key",
        "sk-",
        _START + r"sk-(?:proj-|svcacct-|admin-)?(?=[A-Za-z_-]*[0-9])"
        r"[A-Za-z0-9_-]{20,255}",
    ),
    _pattern("google-key", "AIza", _START + r"AIza[A-Za-z0-9_-]{35}"),
    _pattern("google-secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{20,60}"),
    _pattern("slack-token", "xox", _START + r"xox[abeoprs]-[A-Za-z0-9-]{10,255}"),
    _pattern("slack-token", "xapp-", _START + r"xapp-[0-9]-[A-Za-z0-9-]{10,255}"),
    _pattern(
        "slack-webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com(?:\\?/)services(?P<value>(?:\\?/[A-Za-z0-9]{6,40}){3})",
    ),
    _pattern(
        "stripe-key", "k_", _START + r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,255}"
    ),
    _pattern("stripe-key", "whsec_", _START + r"whsec_[A-Za-z0-9]{24,255}"),
    _pattern("npm-token", "npm_", _START + r"npm_[A-Za-z0-9]{36}" + _END),
    _pattern("fedmem-token", "fm", _START + r"fm[ms]_[A-Za-z0-9_-]{43}"),
    _pattern(
        "jwt",
        "eyJ",
        _START + r"eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}"
        r"\.[A-Za-z0-9_-]{8,1024}",
    ),
    _pattern(
        "url-password",
        ":",
        r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}:(?:\\?/){2}[^\s/:@\"'<>\\]{0,128}"
        r":(?P<value>[^\s/@\"'<>\\]{1,256})@",
    ),
    _pattern(
        "bearer-token",
        "earer ",
        r"[Bb]earer (?=[A-Za-z._~+/-]*[0-9])(?P<value>[A-Za-z0-9._~+/-]{20,1024}=*)",
    ),
)
# NAME=value, name: "value", "name":"value" (JSON may escape the quotes), where the
# name says secret and the value has the entropy of one.
ASSIGNMENT = re.compile(
    r"(?i)(?:secret|token|passw(?:or)?d|passphrase|pwd|api_?-?key|access_?-?key|"
    r"private_?-?key|auth_?-?key|encryption_?-?key|signing_?-?key|credentials?)"
    r"[A-Za-z0-9_]{0,20}(?:\\?[\"'])?[ \t]{0,3}(?:=>|:=|=|:)[ \t]{0,3}(?:\\?[\"'])?"
    r"(?P<value>[A-Za-z0-9+/_.~!@#$%^&*-]{10,512}={0,2})"
)
ASSIGNMENT_NEEDLES = ("ecret", "oken", "assw", "assphrase", "pwd", "key", "redential")
MIN_ENTROPY_BITS = 3.0  # per character: "password-is-here" has 3.1, so digits too


def is_random(value: str) -> bool:
    """Return whether a value looks made by a machine: letters and digits mixed (or
    marks and both cases), and many different characters."""
    if value.startswith(("[", "/", "./", "~/", "$")) or "..." in value:
        return False  # a mask, a path, a variable, an ellipsis
    has_digit = any(c.isdigit() for c in value)
    has_alpha = any(c.isalpha() for c in value)
    mixed = value.lower() != value and value.upper() != value
    marked = any(c in "!@#$%^&*" for c in value)
    if not has_alpha or not (has_digit or (mixed and marked)):
        return False
    counts = collections.Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return bits >= MIN_ENTROPY_BITS


def _mask_match(kind: str, match: re.Match) -> str:
    """Return a match with its value, or all of it, replaced by its kind."""
    mask = f"[redacted:{kind}]"
    if "value" not in match.re.groupindex:
        return mask
    if match["value"].startswith("[redacted:"):
        return match[0]
    before = match[0][: match.start("value") - match.start()]
    return before + mask + match[0][match.end("value") - match.start() :]


def _mask_assignment(match: re.Match) -> str:
    """Return an assignment, its value masked when it looks random."""
    return _mask_match("secret", match) if is_random(match["value"]) else match[0]


def mask_secrets(text: str) -> str:
    """Return `text` with every secret replaced by `[redacted:KIND]`."""
    for pattern in SECRET_PATTERNS:
        if pattern.needle in text:
            text = pattern.shape.sub(functools.partial(_mask_match, pattern.kind), text)
    lowered = text.lower()
    if any(needle in lowered for needle in ASSIGNMENT_NEEDLES):
        text = ASSIGNMENT.sub(_mask_assignment, text)
    return text


def mask_value(value: object) -> object:
    """Return a JSON value with every string in it masked, keys too."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, list):
        return [mask_value(item) for item in value]
    if isinstance(value, dict):
        return {mask_secrets(name): mask_value(item) for name, item in value.items()}
    return value


def mask_line(line: str) -> str:
    """Return a transcript's line masked: verbatim where it hides nothing, rewritten
    where JSON's escapes would have hidden a secret from the patterns."""
    masked = mask_secrets(line)
    try:
        value = parse_json(line)
    except ValueError:
        return masked
    if mask_value(value) == value:
        return masked
    return mask_secrets(format_json(mask_value(value)))


# ---- 8. Transcripts: Claude Code and Codex JSONL to messages ----------------
# Pure functions: one line in, at most one message out, so a page can be read from the
# middle of an archive. Of a real transcript 99 % is not conversation; what tools and
# memories injected is dropped here, or the memory would feed on its own output.

PAGE_MARK = "[fedmem]"  # begins every page an AI is given; such results are dropped
MEMORY_SERVERS = ("fedmem", "fm")  # the names under which clients register this server
TITLE_CHARS = 100
_SHOWN_TYPES = re.compile(
    rb'"type"\s*:\s*"(?:user|assistant|summary|custom-title|ai-title|response_item|'
    rb'event_msg|compacted)"'
)
_INJECTED_STARTS = (
    "<command-name>",
    "<command-message>",
    "<local-command-",
    "<system-reminder>",
    "<user-prompt-submit-hook>",
    "<session-start-hook>",
    "<environment_context>",
    "<user_instructions>",
    "<skills_instructions>",
    "<permissions instructions>",
    "<collaboration_mode>",
    "<turn_aborted>",
    "<apps_instructions>",
    "<plugins_instructions>",
    "# AGENTS.md instructions",
    "Caveat: The messages below were generated",
)
_REMINDER = re.compile(r"<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
_TITLE_KEYS = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
_TITLE_RANKS = {"custom-title": 5, "ai-title": 4, "summary": 3}
_PROMPT_RANKS = {"said": 2, "told": 2, "item": 1}  # the first of its rank stays


def parse_record(line: bytes) -> dict | None:
    """Return a transcript line's JSON object, None when it can hold no message."""
    if len(line) > MAX_PARSED_LINE_BYTES or not _SHOWN_TYPES.search(line):
        return None
    try:
        record = parse_json(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def parse_message(record: dict) -> Message | None:
    """Return the message a record shows, None when it shows none."""
    kind = record.get("type")
    try:
        if kind in ("user", "assistant"):
            return _parse_claude(record)
        if kind in ("response_item", "event_msg", "compacted"):
            return _parse_codex(record)
    except (AttributeError, TypeError, KeyError):
        return None  # shaped like neither tool writes it: archived, not shown
    return None


def parse_title(record: dict) -> tuple[int, str]:
    """Return rank and text of the title a record carries; rank 0 for none."""
    kind = record.get("type")
    text = record.get(_TITLE_KEYS.get(kind, ""))
    if not isinstance(text, str) or not text.strip():
        return 0, ""
    return _TITLE_RANKS[kind], clip(one_line(text), TITLE_CHARS)


def _parse_claude(record: dict) -> Message | None:
    """Return the message of a Claude Code line of type user or assistant."""
    role = record["type"]
    summary = record.get("isCompactSummary")
    if record.get("isMeta") or record.get("repeatsCompactSummary"):
        return None
    if record.get("isVisibleInTranscriptOnly") and not summary:
        return None
    content = record["message"].get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if any(b.get("type") == "tool_result" for b in blocks if isinstance(b, dict)):
        role = "tool"
        if _is_own_server(record.get("mcpMeta")):
            return None
    parts = [_render_block(block) for block in blocks if isinstance(block, dict)]
    if role == "user" and not summary:
        parts = [p for p in parts if not p.lstrip().startswith(_INJECTED_STARTS)]
    if record.get("isSidechain"):
        role = {"user": "task", "assistant": "agent"}.get(role, role)
    return _make_message("summary" if summary else role, parts, record)


def _is_own_server(meta: object) -> bool:
    """Return whether an MCP result's metadata says that a fedmem server gave it."""
    info = (meta or {}).get("_meta", {}).get("io.modelcontextprotocol/serverInfo", {})
    return info.get("name") == "fedmem"


def _make_message(
    role: str, parts: list[str], record: dict, kind: str = "said"
) -> Message | None:
    """Return a message of non-empty parts without system reminders, else None."""
    text = _REMINDER.sub("", "\n".join(p for p in parts if p)).strip()
    when = record.get("timestamp")
    if not text:
        return None
    return Message(role, text, when if isinstance(when, str) else "", kind)


def _render_block(block: dict) -> str:
    """Return one content block as text; empty for thinking and unknown kinds."""
    kind = block.get("type")
    if kind in ("text", "input_text", "output_text", "Text"):
        text = block.get("text")
        return text if isinstance(text, str) else ""
    if kind == "tool_use":
        return f"→ {block.get('name')} {format_json(block.get('input'))}"
    if kind == "tool_result":
        return _render_result(block.get("content"), bool(block.get("is_error")))
    if kind in ("image", "input_image", "document"):
        return f"[{kind.removeprefix('input_')}]"
    return ""


def _render_result(content: object, failed: bool = False) -> str:
    """Return a tool's result as text; empty when it is a page of this memory."""
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [_render_block(b) for b in content if isinstance(b, dict)]
    else:
        texts = [] if content is None else [format_json(content)]
    if any(text.startswith(PAGE_MARK) for text in texts):
        return ""
    body = "\n".join(text for text in texts if text)
    return f"← {'error: ' if failed else ''}{body}" if body else ""


def _parse_codex(record: dict) -> Message | None:
    """Return the message of a Codex rollout line."""
    payload = record["payload"]
    if record["type"] == "compacted":
        return _make_message("summary", [str(payload.get("message") or "")], record)
    kind = payload.get("type")
    if record["type"] == "event_msg":
        return _parse_codex_event(record, payload, kind)
    if kind == "message":
        role = payload.get("role")
        if role not in ("user", "assistant"):
            return None
        return _make_message(role, _codex_texts(payload, role), record, "item")
    if kind in ("function_call", "custom_tool_call"):
        space = payload.get("namespace")
        name = f"{space}.{payload.get('name')}" if space else payload.get("name")
        given = payload.get("arguments") or payload.get("input") or ""
        text = given if isinstance(given, str) else format_json(given)
        return _make_message("assistant", [f"→ {name} {text}"], record)
    if kind in ("local_shell_call", "web_search_call"):
        text = f"→ {kind.removesuffix('_call')} {format_json(payload.get('action'))}"
        return _make_message("assistant", [text], record)
    if kind in ("function_call_output", "custom_tool_call_output"):
        sources = (record.get("metadata") or {}).get("mcp_attribution") or {}
        servers = {s.get("server_name") for s in sources.get("sources") or ()}
        if servers & set(MEMORY_SERVERS):
            return None
        return _make_message("tool", [_codex_output(payload.get("output"))], record)
    return None


def _parse_codex_event(record: dict, payload: dict, kind: str) -> Message | None:
    """Return what a Codex event reports as said by the user or the assistant."""
    if kind == "item_completed":
        item = payload["item"]
        role = {"UserMessage": "user", "AgentMessage": "assistant"}.get(item.get("type"))
        parts = [_render_block(block) for block in item.get("content") or ()]
    else:
        role = {"user_message": "user", "agent_message": "assistant"}.get(kind)
        parts = [str(payload.get("message") or "")]
    if role == "user":
        parts = [p for p in parts if not p.lstrip().startswith(_INJECTED_STARTS)]
    return _make_message(role, parts, record, "told") if role else None


def _codex_texts(payload: dict, role: str) -> list[str]:
    """Return the texts of a response item that a person or the model wrote."""
    blocks = [b for b in payload.get("content") or () if isinstance(b, dict)]
    texts = [_render_block(block) for block in blocks]
    if role == "assistant":
        return texts
    meta = payload.get("internal_chat_message_metadata_passthrough") or {}
    kinds = meta.get("content_item_kinds")
    if isinstance(kinds, list) and len(kinds) == len(texts):
        texts = [t for t, k in zip(texts, kinds, strict=True) if k == "user.text"]
    return [t for t in texts if not t.lstrip().startswith(_INJECTED_STARTS)]


def _codex_output(output: object) -> str:
    """Return a Codex tool result as text; older CLIs wrap it in JSON."""
    if isinstance(output, str) and output.startswith("{"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return _render_result(parse_json(output)["output"])
    return _render_result(output)


class TranscriptScanner:
    """Count lines and messages of a transcript fed block by block.

    A scan may continue `earlier` at one of its blocks that begins with a line; it
    then ends as a scan of the whole transcript would.
    """

    def __init__(self, earlier: Session | None = None, at_block: int = 0):
        self.size = self.lines = self.messages = self.items = self.told = 0
        self.title, self.title_rank, self.start, self.end = "", 0, "", ""
        self.blocks: list[Block] = []
        self._pending = bytearray()
        self._is_mid_line = False
        if earlier:
            block = earlier.blocks[at_block]
            self.size, self.lines = block.offset, block.lines
            self.messages, self.items = block.messages, block.items
            self.told = 0 if earlier.uses_items else 1
            self.title, self.title_rank = earlier.title, earlier.title_rank
            self.start, self.end = earlier.start, earlier.end
            self.blocks = list(earlier.blocks[:at_block])

    def feed(self, block: bytes, archive_offset: int) -> None:
        """Take the next block, whose gzip member begins at `archive_offset`."""
        begun = self.lines + self._is_mid_line
        before = (self.size, archive_offset, begun, self.messages, self.items)
        self.blocks.append(Block(*before, self._is_mid_line))
        self.size += len(block)
        for line in io.BytesIO(block):  # splits at \n only, as JSONL does
            self._take(line)

    def _take(self, piece: bytes) -> None:
        """Take a line or the piece of one that a block holds."""
        self._is_mid_line = True
        if len(self._pending) <= MAX_PARSED_LINE_BYTES:
            self._pending += piece
        if piece.endswith(b"\n"):
            self._end_line()

    def _end_line(self) -> None:
        """Count the pending line and what it shows."""
        record = parse_record(bytes(self._pending))
        self._pending.clear()
        self._is_mid_line = False
        self.lines += 1
        if record is None:
            return
        rank, title = parse_title(record)
        message = parse_message(record)
        if message and message.role in ("user", "task") and not rank:
            if _PROMPT_RANKS[message.kind] > self.title_rank:
                rank = _PROMPT_RANKS[message.kind]
                title = clip(one_line(message.text), TITLE_CHARS)
        if rank and rank >= self.title_rank:
            self.title, self.title_rank = title, rank
        if message:
            self._count(message)

    def _count(self, message: Message) -> None:
        """Count a message and its time."""
        if message.kind == "item":
            self.items += 1
        else:
            self.messages += 1
            self.told += message.kind == "told"
        with contextlib.suppress(ValueError):
            when = format_time(parse_time(message.time))
            self.start = min(self.start or when, when)
            self.end = max(self.end, when)

    def finish(self, sha256: str, archive_size: int) -> Session:
        """Return the session; a last line without a line end counts."""
        if self._is_mid_line:
            self._end_line()
        return Session(
            size=self.size,
            sha256=sha256,
            archive_size=archive_size,
            title=self.title,
            start=self.start,
            end=self.end,
            messages=self.messages + (0 if self.told else self.items),
            lines=self.lines,
            title_rank=self.title_rank,
            uses_items=not self.told,
            blocks=tuple(self.blocks),
        )


def is_shown(message: Message | None, uses_items: bool) -> bool:
    """Return whether a reader of this transcript sees a message."""
    return message is not None and (message.kind != "item" or uses_items)


# ---- 9. Store: the files that are the truth ---------------------------------
# Workspaces, documents, their old versions, session archives, and the journal that
# lists every committed write. A write holds its path's lock from the first look to the
# journal line; a receipt is returned only after that line is synced.

JOURNAL_FILE = "_meta/journal.jsonl"
REGISTRY_FILE = "_meta/workspaces.json"
PARTIAL_DIR = "_meta/partial"
OVERVIEW = "overview.md"

_WORKSPACE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def require_workspace_id(text: str) -> str:
    """Return a well-formed workspace_id; raise BadRequest."""
    if _WORKSPACE_ID.fullmatch(text):
        return text
    raise BadRequest(
        f"{clip(text, 80)!r} is not a workspace_id: up to 128 of a-z 0-9 . _ -, as "
        "list_workspaces shows them."
    )


def require_session_id(text: str) -> str:
    """Return a well-formed session_id without a revision; raise BadRequest."""
    if _SESSION_ID.fullmatch(text):
        return text
    raise BadRequest(
        f"{clip(text, 80)!r} is not a session_id: up to 128 of A-Z a-z 0-9 . _ -, as "
        "list_sessions shows them."
    )


def require_sha256(name: str, text: str) -> str:
    """Return a SHA-256 in lower-case hex; raise BadRequest naming the argument."""
    if _SHA256.fullmatch(text):
        return text
    raise BadRequest(f"`{name}` must be a SHA-256 in 64 lower-case hex digits.")


def require_knowledge_path(path: str) -> str:
    """Return a well-formed knowledge path; raise BadRequest saying what is wrong."""
    parts = path.split("/")
    problem = ""
    if path == OVERVIEW:
        problem = "overview.md is the overview: write it with write_overview"
    elif not path.endswith(".md"):
        problem = "it must end in .md"
    elif len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES:
        problem = f"it is over {MAX_PATH_BYTES} bytes long"
    elif len(parts) > MAX_PATH_PARTS:
        problem = f"it has more than {MAX_PATH_PARTS} parts"
    elif any(not part or part.startswith(".") for part in parts):
        problem = "no part may be empty or begin with a dot, and it may not be absolute"
    elif any(part.endswith(".md") for part in parts[:-1]):
        problem = "only its last part may end in .md"
    elif "\\" in path or not path.isprintable():
        problem = "it has a backslash or a control or unprintable character"
    elif unicodedata.normalize("NFC", path) != path:
        problem = "it must be in Unicode normal form NFC"
    if problem:
        raise BadRequest(f"The path {clip(path, 80)!r} is refused: {problem}.")
    return path


def document_path(path: str) -> str:
    """Return where in its workspace a document lies; raise BadRequest."""
    return OVERVIEW if path == OVERVIEW else "knowledge/" + require_knowledge_path(path)


def session_of(path: str) -> str:
    """Return the session_id in an archive's path."""
    return archive_name(path).partition("~")[0]


def archive_name(path: str) -> str:
    """Return an archive's name: a session_id, or session_id~prefix for a revision."""
    return path.rpartition("/")[2].removesuffix(".jsonl.gz")


class Ledger:
    """Hold what the journal says of one workspace."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.sessions: dict[str, list[str]] = {}  # last committed archive last
        self.documents = 0
        self.last_time = ""

    def apply(self, entry: Entry) -> None:
        """Take one journal entry into account."""
        earlier = self.entries.get(entry.path)
        was_live = earlier is not None and earlier.action != "deleted"
        if entry.path.startswith("knowledge/"):
            self.documents += (entry.action != "deleted") - was_live
        elif entry.path.startswith("sessions/"):
            paths = self.sessions.setdefault(session_of(entry.path), [])
            if entry.path in paths:
                paths.remove(entry.path)
            paths.append(entry.path)
        self.entries[entry.path] = entry
        self.last_time = max(self.last_time, entry.time)


class Journal:
    """Guard the append-only list of committed writes and what follows from it.

    Other processes append too: refresh() reads on from where the last one ended.
    """

    def __init__(self, root: str):
        self.ledgers: dict[str, Ledger] = {}
        self.last_seq = 0
        self.bad_lines = 0
        self._root = root
        self._lock = threading.RLock()
        self._file_lock = FileLock(root, "_meta/locks/journal")
        self._sync_lock = threading.Lock()
        self._offset = self._synced = 0
        parent, name = split_path(JOURNAL_FILE)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_FOLLOW
        with disk_errors(JOURNAL_FILE), directory(root, parent, create=True) as handle:
            self._fd = os.open(name, flags, 0o600, dir_fd=handle)
            os.fsync(handle)
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that were appended since the last look."""
        with self._lock, disk_errors(JOURNAL_FILE):
            while os.fstat(self._fd).st_size > self._offset:
                data = os.pread(self._fd, MIB, self._offset)
                end = data.rfind(b"\n") + 1
                if not end:
                    return  # a line being written, or torn: the next writer cuts it
                for line in data[:end].splitlines():
                    self._apply(line)
                self._offset += end

    def _apply(self, line: bytes) -> None:
        """Take one line into account; count it when it cannot be read."""
        entry = parse_entry(line)
        if entry is None:
            self.bad_lines += 1
            log.warning("journal line unreadable, skipped: %r", clip(repr(line), 200))
            return
        self.last_seq = max(self.last_seq, entry.seq)
        self.ledgers.setdefault(entry.workspace, Ledger()).apply(entry)

    def ledger(self, workspace_id: str) -> Ledger:
        """Return what is known of a workspace, fresh; empty for an unknown one."""
        self.refresh()
        return self.ledgers.get(workspace_id) or Ledger()

    def append(
        self, workspace_id: str, action: str, path: str, size: int, sha256: str, actor: str
    ) -> None:
        """Commit a write: return when its line is on the disk; raise StorageFailed."""
        with self._file_lock.hold(), self._lock, disk_errors(JOURNAL_FILE):
            self.refresh()
            os.ftruncate(self._fd, self._offset)  # what is left is a torn line
            now = format_time(utc_now())
            seq = self.last_seq + 1
            line = format_entry(
                Entry(seq, now, workspace_id, action, path, size, sha256, actor)
            )
            try:
                if os.write(self._fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._fd, self._offset)
                raise
            self.refresh()
            end = self._offset
        self._sync(end)

    def _sync(self, end: int) -> None:
        """Return when the file is on the disk up to `end`: one fsync serves everyone
        who appended before it began."""
        with self._sync_lock, disk_errors(JOURNAL_FILE):
            if self._synced >= end:
                return
            reached = self._offset
            os.fsync(self._fd)
            self._synced = reached


class Registry:
    """Guard the list of workspaces; the identity.json files are its truth."""

    def __init__(self, root: str):
        self._root = root
        self._lock = threading.RLock()
        self._workspaces: dict[str, Workspace] = {}
        self._signature: tuple | None = None
        self.load()

    def load(self) -> None:
        """Read the registry, and the identity of every folder it does not name."""
        with self._lock:
            self._signature = self._sign()
            value = read_json_file(self._root, REGISTRY_FILE)
            listed = value.get("workspaces") if isinstance(value, dict) else None
            known = map(parse_workspace, listed if isinstance(listed, list) else ())
            self._workspaces = {w.workspace_id: w for w in known if w}
            folders = [n for n, _ in list_directory(self._root, "workspaces")]
            lost = [n for n in folders if n not in self._workspaces]
            for name in lost:
                identity = f"workspaces/{name}/identity.json"
                workspace = parse_workspace(read_json_file(self._root, identity))
                if workspace and workspace.workspace_id == name:
                    self._workspaces[name] = workspace
            if any(name in self._workspaces for name in lost):
                self._save()

    def _sign(self) -> tuple | None:
        """Return what changes when another process writes the registry."""
        found = stat_file(self._root, REGISTRY_FILE)
        return found and (found.st_ino, found.st_mtime_ns, found.st_size)

    def _save(self) -> None:
        """Write the registry's file."""
        rows = [dataclasses.asdict(w) for _, w in sorted(self._workspaces.items())]
        text = json.dumps({"workspaces": rows}, ensure_ascii=False, indent=1)
        write_file(self._root, REGISTRY_FILE, text.encode("utf-8", "replace") + b"\n")
        self._signature = self._sign()

    def all(self) -> dict[str, Workspace]:
        """Return every workspace by id."""
        with self._lock:
            if self._sign() != self._signature:
                self.load()
            return self._workspaces

    def require(self, workspace_id: str) -> Workspace:
        """Return a registered workspace; raise BadRequest or NotFound."""
        require_workspace_id(workspace_id)
        found = self._workspaces.get(workspace_id) or self.all().get(workspace_id)
        if found:
            return found
        raise NotFound(
            f"There is no workspace {workspace_id!r}. list_workspaces shows those there "
            "are; register_workspace makes one."
        )

    def match(self, wanted: Workspace) -> Workspace | None:
        """Return the workspace of the same machine, tool, project and remote; an
        empty remote matches any."""
        same = [w for w in self.all().values() if identify(w) == identify(wanted)]
        same.sort(key=lambda w: (w.git_remote != wanted.git_remote, bool(w.git_remote)))
        for workspace in same:
            remotes = {workspace.git_remote, wanted.git_remote} - {""}
            if len(remotes) < 2:
                return workspace
        return None

    def choose_id(self, wanted: Workspace) -> str:
        """Return a free id: the slugs, with a hash when another identity has them."""
        parts = (wanted.machine, wanted.tool, wanted.project)
        plain = "-".join(make_slug(part) for part in parts)
        taken = self.all()
        if plain not in taken:
            return plain
        full = "\0".join((*identify(wanted), wanted.git_remote))
        for length in range(6, 65):
            name = f"{plain[:120]}-{hash_text(full)[:length]}"[:128]
            if name not in taken:
                return name
        raise Conflict(f"No id is free for project {wanted.project!r}.")

    def put(self, workspace: Workspace) -> None:
        """Write a workspace's identity and the registry, durably."""
        identity = f"workspaces/{workspace.workspace_id}/identity.json"
        with self._lock:
            self.all()
            write_file(self._root, identity, format_workspace(workspace))
            self._workspaces = {**self._workspaces, workspace.workspace_id: workspace}
            self._save()


def identify(workspace: Workspace) -> tuple[str, str, str]:
    """Return what makes a workspace the same: host and tool names without case."""
    return workspace.machine.casefold(), workspace.tool.casefold(), workspace.project


class Store:
    """Hold the open root: journal, registry, locks, and caches of what files say."""

    def __init__(self, root: str):
        self.root = root
        self.journal = Journal(root)
        self.registry = Registry(root)
        self._locks = [
            FileLock(root, f"_meta/locks/{slot:02}") for slot in range(LOCK_FILES)
        ]
        self._cache_lock = threading.Lock()
        self._digests: collections.OrderedDict = collections.OrderedDict()
        self._sessions: dict[str, tuple[tuple, Session]] = {}
        self._hashers: collections.OrderedDict = collections.OrderedDict()

    @contextlib.contextmanager
    def locked(self, workspace_id: str, path: str, action: str) -> Iterator[None]:
        """Hold the lock of a path; first mend what a killed holder left undone.

        The lock file names the path in flight until the block ends well.
        """
        slot = zlib.crc32(f"{workspace_id}/{path}".encode()) % LOCK_FILES
        note = {"workspace": workspace_id, "path": path, "action": action}
        with self._locks[slot].hold() as file:
            self._mend(file)
            os.pwrite(file.fileno(), format_json(note).encode(), 0)
            yield
            os.ftruncate(file.fileno(), 0)

    def _mend(self, file: io.FileIO) -> None:
        """Reconcile the path that a lock file still names."""
        left = os.pread(file.fileno(), 4 * KIB, 0)
        if not left:
            return
        try:
            note = parse_json(left)
            where = note["workspace"], note["path"], note["action"]
        except (ValueError, TypeError, KeyError):
            log.warning("lock file names no path, cleared: %r", left[:200])
        else:
            log.warning("finishing an interrupted write: %s", "/".join(where[:2]))
            reconcile_path(self, *where)
        os.ftruncate(file.fileno(), 0)

    def recover(self) -> None:
        """Finish or undo every write that a killed process left in flight."""
        for lock in self._locks:
            with lock.hold(wait=False) as file:
                if file is not None:
                    self._mend(file)
        if not self.journal.last_seq:
            for workspace_id in list(self.registry.all()):
                reconcile_workspace(self, workspace_id)

    def digest(self, relative: str, found: os.stat_result) -> str:
        """Return the SHA-256 of a document's file, from memory when its stat is the
        one that was hashed."""
        key = (relative, found.st_ino, found.st_size, found.st_mtime_ns)
        with self._cache_lock:
            if key in self._digests:
                self._digests.move_to_end(key)
                return self._digests[key]
        sha256 = hash_bytes(read_file(self.root, relative))
        with self._cache_lock:
            self._digests[key] = sha256
            if len(self._digests) > DIGEST_CACHE_ENTRIES:
                self._digests.popitem(last=False)
        return sha256

    def load_session(self, workspace_id: str, path: str) -> Session:
        """Return what an archive holds, from memory, its record, or the archive
        itself when the record is missing or of other bytes; raise NotFound, Damaged."""
        relative = f"workspaces/{workspace_id}/{path}"
        found = stat_file(self.root, relative)
        if found is None:
            raise NotFound(f"The archive {relative!r} is missing.")
        signature = (found.st_ino, found.st_size, found.st_mtime_ns)
        cached = self._sessions.get(relative)
        if cached and cached[0] == signature:
            return cached[1]
        record = record_path(relative)
        session = parse_session(read_json_file(self.root, record))
        if session is None or session.archive_size != found.st_size:
            session = scan_archive(self.root, relative)
            with contextlib.suppress(FedmemError):  # a cache; the next reader tries too
                write_file(self.root, record, format_session(session), durable=False)
        self._sessions[relative] = (signature, session)
        return session

    def forget_session(self, relative: str) -> None:
        """Drop what memory holds of an archive."""
        self._sessions.pop(relative, None)
        with self._cache_lock:
            self._hashers.pop(relative, None)

    def keep_hasher(self, relative: str, hasher: object) -> None:
        """Remember the running hash of exactly the archive that is there now."""
        found = stat_file(self.root, relative)
        signature = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._cache_lock:
            self._hashers[relative] = (signature, hasher)
            self._hashers.move_to_end(relative)
            if len(self._hashers) > HASHER_CACHE_ENTRIES:
                self._hashers.popitem(last=False)

    def take_hasher(self, relative: str, session: Session) -> object:
        """Return a hash object fed with an archive's whole transcript; re-read it
        unless its running hash is in memory; raise Damaged when it is not `session`."""
        found = stat_file(self.root, relative)
        signature = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._cache_lock:
            kept = self._hashers.get(relative)
        if kept and kept[0] == signature and kept[1].hexdigest() == session.sha256:
            return kept[1].copy()
        hasher, problem = hashlib.sha256(), ""
        try:
            with open_file(self.root, relative) as file:
                for _, content in iter_members(file):
                    hasher.update(content)
        except Damaged as e:
            problem = str(e)
        if problem or hasher.hexdigest() != session.sha256:
            text = f"The archive {relative!r} is not what its record says. {problem}"
            raise Damaged(text.strip(), {"path": relative})
        return hasher


def open_store(root: str, existing: bool = False) -> Store:
    """Return the store of a root, its interrupted writes mended; make the root unless
    `existing`, which raises NotFound for one that was never initialised."""
    if existing and stat_file(root, JOURNAL_FILE) is None:
        raise NotFound(
            f"{root!r} is not a fedmem root (no {JOURNAL_FILE}). Is its disk mounted? "
            "Start once without --existing to begin a new memory there."
        )
    with disk_errors(root):
        os.makedirs(root, mode=0o700, exist_ok=True)
        store = Store(root)
        for folder in ("workspaces", PARTIAL_DIR):
            os.close(open_directory(root, folder, create=True))
    store.recover()
    return store


# Workspaces.


def register_workspace(store: Store, wanted: Workspace, actor: str) -> Workspace:
    """Return the workspace of an identity, made when it is new; fill in what was not
    known of it. Raise BadRequest, Conflict."""
    with store.locked("", "registry", "registered"):
        found = store.registry.match(wanted)
        if found is None:
            if len(store.registry.all()) >= MAX_WORKSPACES:
                raise TooLarge(f"There are {MAX_WORKSPACES} workspaces already.")
            name = store.registry.choose_id(wanted)
            created = dataclasses.replace(
                wanted, workspace_id=name, created_at=format_time(utc_now())
            )
            store.registry.put(created)
            store.journal.append(name, "registered", "identity.json", 0, "", actor)
            return created
        fresh = {
            "cwd": wanted.cwd or found.cwd,
            "git_remote": found.git_remote or wanted.git_remote,
            "description": wanted.description or found.description,
        }
        updated = dataclasses.replace(found, **fresh)
        if updated != found:
            store.registry.put(updated)
        return updated


# Documents: overviews and knowledge.


def describe_document(store: Store, workspace_id: str, path: str) -> Document | None:
    """Return size, digest and time of a document, None when there is none."""
    relative = f"workspaces/{workspace_id}/{document_path(path)}"
    found = stat_file(store.root, relative)
    return _describe(store, relative, path, found) if found else None


def _describe(
    store: Store, relative: str, path: str, found: os.stat_result
) -> Document:
    """Return the description of a document's file."""
    modified = datetime.datetime.fromtimestamp(found.st_mtime, datetime.timezone.utc)
    digest = store.digest(relative, found)
    return Document(path, found.st_size, digest, format_time(modified))


def read_document(
    store: Store, workspace_id: str, path: str, version: str = ""
) -> tuple[Document, bytes]:
    """Return a document, or an old version of it, and its bytes; raise NotFound."""
    if version:
        return _read_version(store, workspace_id, path, version)
    relative = f"workspaces/{workspace_id}/{document_path(path)}"
    try:
        data = read_file(store.root, relative)
    except NotFound:
        raise NotFound(
            f"There is no document {path!r} in workspace {workspace_id!r}. "
            "list_knowledge shows what it has; versions_of shows what it had."
        ) from None
    found = stat_file(store.root, relative)
    moment = datetime.datetime.fromtimestamp(
        found.st_mtime if found else 0, datetime.timezone.utc
    )
    return Document(path, len(data), hash_bytes(data), format_time(moment)), data


def list_documents(store: Store, workspace_id: str, prefix: str = "") -> list[Document]:
    """Return every knowledge document whose path begins with `prefix`, by path."""
    folder = f"workspaces/{workspace_id}/knowledge"
    found = []
    for relative, stats in walk_files(store.root, folder):
        path = relative.removeprefix(folder + "/")
        wanted = path.startswith(prefix) and path.endswith(".md")
        if wanted and "/." not in "/" + path:
            with contextlib.suppress(NotFound):  # deleted since the listing
                found.append(_describe(store, relative, path, stats))
    return found


def versions_folder(workspace_id: str, path: str) -> str:
    """Return the folder of a document's old versions."""
    if path != OVERVIEW:
        require_knowledge_path(path)
    return f"workspaces/{workspace_id}/.versions/{path}"


def list_versions(
    store: Store, workspace_id: str, path: str
) -> list[tuple[str, Document]]:
    """Return name and description of a document's old versions, newest first."""
    folder = versions_folder(workspace_id, path)
    found = []
    for name, stats in reversed(list_directory(store.root, folder)):
        if stat.S_ISREG(stats.st_mode) and name.endswith(".md"):
            document = _describe(store, f"{folder}/{name}", path, stats)
            replaced = read_stamp(name) or document.modified
            document = dataclasses.replace(document, modified=replaced)
            found.append((name.removesuffix(".md"), document))
    return found


def _read_version(
    store: Store, workspace_id: str, path: str, version: str
) -> tuple[Document, bytes]:
    """Return an old version named in full, or by six or more digits of its digest."""
    for name, document in list_versions(store, workspace_id, path):
        by_digest = len(version) >= 6 and document.sha256.startswith(version)
        if name == version.removesuffix(".md") or by_digest:
            relative = f"{versions_folder(workspace_id, path)}/{name}.md"
            return document, read_file(store.root, relative)
    raise NotFound(
        f"{path!r} in workspace {workspace_id!r} has no version {clip(version, 80)!r}. "
        "list_knowledge with versions_of shows its versions."
    )


def write_document(
    store: Store,
    workspace_id: str,
    path: str,
    content: bytes,
    actor: str,
    if_sha256: str = "",
    keep_deleted: bool = False,
) -> Receipt:
    """Store a document and return its receipt; the old text becomes a version.

    With `keep_deleted` a text that was deleted last is not brought back by uploading
    it again. Raise Conflict when `if_sha256` is not the digest of what is there.
    """
    inner = document_path(path)
    relative = f"workspaces/{workspace_id}/{inner}"
    sha256, size = hash_bytes(content), len(content)
    with store.locked(workspace_id, inner, "updated"):
        last = store.journal.ledger(workspace_id).entries.get(inner)
        try:
            old = read_file(store.root, relative)
        except NotFound:
            old = None
        is_recorded = last is not None and last.sha256 == sha256
        if old is None and keep_deleted and is_recorded and last.action == "deleted":
            return Receipt("deleted", path, size, sha256)
        if old == content and is_recorded and last.action != "deleted":
            return Receipt("unchanged", path, size, sha256)
        if old != content:
            _require_digest(path, old, if_sha256)
            if old is not None:
                _keep_version(store, workspace_id, path, relative, old)
            write_file(store.root, relative, content)
        action = "created" if old is None else "updated"
        store.journal.append(workspace_id, action, inner, size, sha256, actor)
        status = action if old != content else "unchanged"
        return Receipt(status, path, size, sha256)


def _require_digest(path: str, old: bytes | None, if_sha256: str) -> None:
    """Raise Conflict unless `if_sha256` is empty or the digest of the text there is."""
    there = hash_bytes(old) if old is not None else ""
    if if_sha256 and if_sha256 != there:
        raise Conflict(
            f"{path!r} is not what you last read: "
            + (f"its sha256 is {there}" if there else "there is no such document")
            + ". Read it again, merge, and write with its present sha256.",
            {"status": "conflict", "path": path, "sha256": there},
        )


def _version_path(workspace_id: str, path: str, text: bytes) -> str:
    """Return the file for an old text replaced now."""
    name = f"{format_stamp(utc_now())}-{hash_bytes(text)[:12]}.md"
    return f"{versions_folder(workspace_id, path)}/{name}"


def _keep_version(
    store: Store, workspace_id: str, path: str, relative: str, text: bytes
) -> None:
    """Keep the text that is about to be replaced."""
    link_file(store.root, relative, _version_path(workspace_id, path, text))


def delete_document(store: Store, workspace_id: str, path: str, actor: str) -> Receipt:
    """Move a document to its versions and return a receipt; raise NotFound."""
    inner = document_path(path)
    with store.locked(workspace_id, inner, "deleted"):
        document, text = read_document(store, workspace_id, path)
        target = _version_path(workspace_id, path, text)
        move_file(store.root, f"workspaces/{workspace_id}/{inner}", target)
        args = (inner, document.size, document.sha256, actor)
        store.journal.append(workspace_id, "deleted", *args)
        return Receipt("deleted", path, document.size, document.sha256)


# Sessions: archives, their revisions, and uploads under way.


@dataclasses.dataclass(frozen=True)
class Archive:
    """Name one stored transcript: a session's first archive or a revision of it."""

    workspace_id: str
    path: str
    session: Session

    @property
    def relative(self) -> str:
        """Return the archive's path from the root."""
        return f"workspaces/{self.workspace_id}/{self.path}"

    @property
    def name(self) -> str:
        """Return session_id, or session_id~prefix for a revision."""
        return archive_name(self.path)


def record_path(relative: str) -> str:
    """Return the path of the derived record beside an archive."""
    return relative.removesuffix(".jsonl.gz") + ".json"


def scan_archive(root: str, relative: str) -> Session:
    """Return what an archive holds by reading all of it; raise NotFound, Damaged."""
    scanner, hasher = TranscriptScanner(), hashlib.sha256()
    with open_file(root, relative) as file:
        for offset, content in iter_members(file):
            hasher.update(content)
            scanner.feed(content, offset)
        size = file.tell()
    return scanner.finish(hasher.hexdigest(), size)


def list_archives(store: Store, workspace_id: str, session_id: str) -> list[Archive]:
    """Return a session's archives, the head (last committed) last; those that are
    missing or damaged are left out and logged."""
    found = []
    for path in store.journal.ledger(workspace_id).sessions.get(session_id, ()):
        try:
            session = store.load_session(workspace_id, path)
        except (NotFound, Damaged) as e:
            log.warning("archive left out: %s", e)
        else:
            found.append(Archive(workspace_id, path, session))
    return found


def require_archive(store: Store, workspace_id: str, name: str) -> Archive:
    """Return the archive that `session_id` or `session_id~prefix` names; raise
    NotFound."""
    session_id, mark, prefix = name.partition("~")
    require_session_id(session_id)
    archives = list_archives(store, workspace_id, session_id)
    if not mark and archives:
        return archives[-1]
    for archive in archives:
        digest = archive.session.sha256
        by_digest = len(prefix) >= 6 and digest.startswith(prefix)
        if mark and (archive.name == name or by_digest):
            return archive
    raise NotFound(
        f"There is no session {clip(name, 200)!r} in workspace {workspace_id!r}. "
        "list_sessions shows the sessions there are."
    )


def find_session(store: Store, workspace: Workspace, session_id: str) -> str:
    """Return the workspace in which this machine's and tool's session was archived
    first, else the given one."""
    store.journal.refresh()
    first: tuple[int, str] | None = None
    for other in store.registry.all().values():
        if identify(other)[:2] == identify(workspace)[:2]:
            ledger = store.journal.ledgers.get(other.workspace_id) or Ledger()
            for path in ledger.sessions.get(session_id, ()):
                found = ledger.entries[path].seq, other.workspace_id
                first = min(first or found, found)
    return first[1] if first else workspace.workspace_id


def read_blocks(store: Store, archive: Archive, index: int) -> Iterator[bytes]:
    """Yield the transcript's blocks from number `index` on; raise Damaged."""
    with open_file(store.root, archive.relative) as file:
        file.seek(archive.session.blocks[index].archive_offset)
        for _, content in iter_members(file):
            yield content


def read_bytes(store: Store, archive: Archive, offset: int, count: int) -> bytes:
    """Return `count` transcript bytes from `offset` on; fewer at the end."""
    starts = [block.offset for block in archive.session.blocks]
    index = max(i for i, start in enumerate(starts) if start <= offset or i == 0)
    skip = offset - starts[index]
    data = bytearray()
    for content in read_blocks(store, archive, index):
        data += content
        if len(data) >= skip + count:
            break
    return bytes(data[skip : skip + count])


def iter_lines(
    store: Store, archive: Archive, index: int
) -> Iterator[tuple[int, bytes | None]]:
    """Yield number and bytes of each line from block `index` on, which must begin
    with a line; None for a line too long to be held."""
    number = archive.session.blocks[index].lines
    pending, is_long, any_left = bytearray(), False, False
    for content in read_blocks(store, archive, index):
        for piece in io.BytesIO(content):
            any_left = True
            is_long = is_long or len(pending) + len(piece) > MAX_PARSED_LINE_BYTES
            pending = bytearray() if is_long else pending + piece
            if piece.endswith(b"\n"):
                yield number, None if is_long else bytes(pending)
                number += 1
                pending, is_long, any_left = bytearray(), False, False
    if any_left:
        yield number, None if is_long else bytes(pending)


def iter_messages(
    store: Store, archive: Archive, offset: int = 0
) -> Iterator[tuple[int, Message]]:
    """Yield number and message from number `offset` on, reading no block that lies
    wholly before it."""
    session = archive.session
    index = 0
    for i, block in enumerate(session.blocks):
        if _messages_before(session, block) <= offset and not block.is_cut:
            index = i
    number = _messages_before(session, session.blocks[index])
    for _, line in iter_lines(store, archive, index):
        record = parse_record(line) if line else None
        message = parse_message(record) if record else None
        if is_shown(message, session.uses_items):
            if number >= offset:
                yield number, message
            number += 1


def _messages_before(session: Session, block: Block) -> int:
    """Return how many shown messages lie before a block."""
    return block.messages + (block.items if session.uses_items else 0)


def read_lines(
    store: Store, archive: Archive, offset: int, count: int
) -> list[tuple[int, bytes | None]]:
    """Return number and bytes of up to `count` lines from line `offset` on."""
    index = 0
    for i, block in enumerate(archive.session.blocks):
        if block.lines <= offset and not block.is_cut:
            index = i
    found = []
    for number, line in iter_lines(store, archive, index):
        if number >= offset + count:
            break
        if number >= offset:
            found.append((number, line))
    return found


@dataclasses.dataclass(frozen=True)
class Piece:
    """Hold one upload call: raw bytes from `offset` of a transcript of `total_size`
    bytes and digest `sha256`, which continues the archived one of `base_sha256`."""

    offset: int
    raw: bytes
    total_size: int
    sha256: str
    base_sha256: str = ""


def partial_path(workspace_id: str, session_id: str, sha256: str, start: int) -> str:
    """Return the file of an unfinished upload; its bytes begin at `start`."""
    key = hash_text(f"{workspace_id}\0{session_id}\0{sha256}\0{start}")
    return f"{PARTIAL_DIR}/{key}.part"


def append_partial(store: Store, relative: str, at: int, raw: bytes) -> None:
    """Write the next bytes of an unfinished upload within the quota; it need not be
    durable, for its digest is verified when it is complete."""
    now, used = utc_now().timestamp(), 0
    for name, found in list_directory(store.root, PARTIAL_DIR):
        if now - found.st_mtime > PARTIAL_LIFETIME_S:
            remove_file(store.root, f"{PARTIAL_DIR}/{name}")
        else:
            used += found.st_size
    if used + len(raw) > PARTIAL_QUOTA_BYTES:
        raise Busy(
            f"Unfinished uploads fill their {format_size(PARTIAL_QUOTA_BYTES)}. Finish "
            "one first, or wait: they expire after 7 days."
        )
    parent, name = split_path(relative)
    with disk_errors(relative), directory(store.root, parent, create=True) as handle:
        flags = os.O_WRONLY | os.O_CREAT | _NO_FOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=handle)
        try:
            os.ftruncate(fd, at)
            os.lseek(fd, at, os.SEEK_SET)
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(raw)
        finally:
            os.close(fd)


def probe_session(
    store: Store, workspace_id: str, session_id: str, sha256: str, deep: bool
) -> dict:
    """Return what is archived of a session and where an upload of `sha256` goes on;
    with `deep` every archive is re-hashed, and a damaged one set aside."""
    with store.locked(workspace_id, f"sessions/{session_id}", "probed"):
        archives = list_archives(store, workspace_id, session_id)
        if deep:
            archives = [a for a in archives if _is_sound(store, a)]
        have = describe_archives(archives)
        next_offset = 0
        if sha256:
            for start in [0, *(archive.session.size for archive in archives)]:
                path = partial_path(workspace_id, session_id, sha256, start)
                found = stat_file(store.root, path)
                next_offset = max(next_offset, start + found.st_size if found else 0)
        if any(row["sha256"] == sha256 for row in have):
            next_offset = next(r["size"] for r in have if r["sha256"] == sha256)
        return {"have": have, "next_offset": next_offset, "workspace_id": workspace_id}


def describe_archives(archives: list[Archive]) -> list[dict]:
    """Return size and digest of each archive, the head last."""
    return [
        {"size": a.session.size, "sha256": a.session.sha256, "name": a.name}
        for a in archives
    ]


def _is_sound(store: Store, archive: Archive) -> bool:
    """Return whether an archive's bytes have the recorded digest, reading all of it;
    a damaged one is set aside so that its transcript can be uploaded again."""
    store.forget_session(archive.relative)
    try:
        store.take_hasher(archive.relative, archive.session)
        return True
    except (Damaged, NotFound) as e:
        log.error("archive damaged, set aside: %s", e)
        set_aside(store, archive.relative)
        return False


def set_aside(store: Store, relative: str) -> None:
    """Rename a damaged archive so that nothing reads it and nothing is lost."""
    with contextlib.suppress(NotFound):
        move_file(store.root, relative, f"{relative}.damaged-{format_stamp(utc_now())}")
    remove_file(store.root, record_path(relative))
    store.forget_session(relative)


def receive_piece(
    store: Store, workspace_id: str, session_id: str, piece: Piece, actor: str
) -> dict:
    """Take one piece of a transcript; return `partial`, `restart`, or a receipt when
    it was the last. Raise BadRequest, Conflict, StorageFailed."""
    end = piece.offset + len(piece.raw)
    if end > piece.total_size:
        raise BadRequest(
            f"This piece ends at byte {end}, after `total_size` {piece.total_size}."
        )
    with store.locked(workspace_id, f"sessions/{session_id}", "stored"):
        archives = list_archives(store, workspace_id, session_id)
        for archive in archives:
            if archive.session.sha256 == piece.sha256:
                _journal_archive(store, archive, "extended", actor)
                return _make_receipt("duplicate", archive)
        base = None
        if piece.base_sha256:
            same = [a for a in archives if a.session.sha256 == piece.base_sha256]
            if not same:
                return _make_restart(archives)
            base = same[-1]
        start = base.session.size if base else 0
        if piece.offset < start:
            raise BadRequest(
                f"`offset` {piece.offset} lies before the end of the base ({start})."
            )
        path = partial_path(workspace_id, session_id, piece.sha256, start)
        found = stat_file(store.root, path)
        reached = start + (found.st_size if found else 0)
        if end <= reached < piece.total_size and piece.raw:  # sent again
            return {"status": "partial", "next_offset": reached}
        if piece.offset > reached:
            if reached == 0:
                return _make_restart(archives)
            raise Conflict(
                f"This upload stands at byte {reached}, not at {piece.offset}. Send "
                "the piece that begins there.",
                {**_make_restart(archives), "next_offset": reached},
            )
        if end < piece.total_size:
            if not piece.raw:
                raise BadRequest("`data` is empty before the end of the transcript.")
            append_partial(store, path, piece.offset - start, piece.raw)
            return {"status": "partial", "next_offset": end}
        upload = Upload(store, path, start, piece)
        return _commit(store, workspace_id, session_id, archives, base, upload, actor)


def _make_restart(archives: list[Archive]) -> dict:
    """Return the answer that sends a client back to the beginning."""
    return {"status": "restart", "next_offset": 0, "have": describe_archives(archives)}


def _make_receipt(status: str, archive: Archive) -> dict:
    """Return the receipt of a transcript that is durable."""
    return {
        "status": status,
        "workspace_id": archive.workspace_id,
        "session_id": archive.name,
        "size": archive.session.size,
        "sha256": archive.session.sha256,
        "messages": archive.session.messages,
    }


class Upload:
    """Give the bytes of a complete upload: what lies in its partial file up to the
    last piece, then that piece."""

    def __init__(self, store: Store, path: str, start: int, piece: Piece):
        self.start = start
        self.total_size = piece.total_size
        self.sha256 = piece.sha256
        self.path = path
        self._store = store
        self._piece = piece

    def chunks(self, offset: int) -> Iterator[bytes]:
        """Yield the transcript from byte `offset`, not before `start`, on."""
        here = self.start
        if self._piece.offset > self.start:
            with open_file(self._store.root, self.path) as file:
                file.seek(offset - self.start)
                here = max(offset, self.start)
                while here < self._piece.offset:
                    data = file.read(min(MIB, self._piece.offset - here))
                    if not data:
                        break
                    here += len(data)
                    yield data
        yield self._piece.raw[max(0, offset - self._piece.offset) :]

    def drop(self) -> None:
        """Remove the partial file."""
        remove_file(self._store.root, self.path)


def _commit(
    store: Store,
    workspace_id: str,
    session_id: str,
    archives: list[Archive],
    base: Archive | None,
    upload: Upload,
    actor: str,
) -> dict:
    """Verify a complete upload, archive it and return its receipt."""
    try:
        extended, hasher = _match_upload(store, archives, base, upload)
    except Damaged as e:
        log.error("archive damaged, set aside: %s", e)
        set_aside(store, e.data["path"])
        rest = [a for a in archives if a.relative != e.data["path"]]
        if base:
            return _make_restart(rest)
        return _commit(store, workspace_id, session_id, rest, None, upload, actor)
    if hasher.hexdigest() != upload.sha256:
        upload.drop()
        raise Conflict(
            f"The bytes received have sha256 {hasher.hexdigest()}, not the announced "
            f"{upload.sha256}. Nothing was stored; send the transcript again from 0.",
            _make_restart(archives),
        )
    if extended is None:
        for archive in archives:
            if _contains(store, archive, upload):
                upload.drop()
                return _make_receipt("contained", archive)
    status = "extended" if extended else "revision" if archives else "stored"
    path = extended.path if extended else ""
    if status == "revision":
        month = archives[0].path.rpartition("/")[0]
        path = f"{month}/{session_id}~{upload.sha256[:12]}.jsonl.gz"
    archive = _write_archive(store, workspace_id, session_id, path, extended, upload)
    store.keep_hasher(archive.relative, hasher)
    _journal_archive(store, archive, status, actor)
    upload.drop()
    return _make_receipt(status, archive)


def _match_upload(
    store: Store, archives: list[Archive], base: Archive | None, upload: Upload
) -> tuple[Archive | None, object]:
    """Return the archive that an upload continues, None without one, and the hash of
    the whole transcript; raise Damaged when that archive is not what its record says."""
    if base:
        hasher = store.take_hasher(base.relative, base.session)
        for chunk in upload.chunks(base.session.size):
            hasher.update(chunk)
        return base, hasher
    sizes = {a.session.size: a for a in archives if a.session.size < upload.total_size}
    hasher, here, extended = hashlib.sha256(), 0, None
    marks = sorted(sizes)
    for chunk in upload.chunks(0):
        view = memoryview(chunk)
        while marks and marks[0] <= here + len(view):
            cut = marks.pop(0) - here
            hasher.update(view[:cut])
            view, here = view[cut:], here + cut
            same = [
                a
                for a in archives
                if a.session.size == here and a.session.sha256 == hasher.hexdigest()
            ]
            extended = same[-1] if same else extended
        hasher.update(view)
        here += len(view)
    if extended:
        store.take_hasher(extended.relative, extended.session)
    return extended, hasher


def _contains(store: Store, archive: Archive, upload: Upload) -> bool:
    """Return whether a transcript is a strict prefix of an archived one."""
    if archive.session.size <= upload.total_size:
        return False
    hasher, left = hashlib.sha256(), upload.total_size
    try:
        for content in read_blocks(store, archive, 0):
            hasher.update(content[:left])
            left -= min(left, len(content))
            if not left:
                break
    except Damaged as e:
        log.error("archive damaged: %s", e)
    return hasher.hexdigest() == upload.sha256


def _write_archive(
    store: Store,
    workspace_id: str,
    session_id: str,
    path: str,
    extended: Archive | None,
    upload: Upload,
) -> Archive:
    """Write an upload as a new archive, or over the one it extends: whole members are
    copied, the rest is cut and compressed anew. Without `path` the month decides."""
    chunks: Iterable[bytes] = upload.chunks(extended.session.size if extended else 0)
    scanner, kept_bytes = TranscriptScanner(), 0
    if extended:
        blocks = extended.session.blocks
        index = max(i for i, block in enumerate(blocks) if not block.is_cut)
        scanner = TranscriptScanner(extended.session, index)
        kept_bytes = blocks[index].archive_offset
        chunks = itertools.chain(read_blocks(store, extended, index), chunks)
    if not path:
        month = find_month(upload.chunks(0))
        path = f"sessions/{month}/{session_id}.jsonl.gz"
    target = f"workspaces/{workspace_id}/{path}"
    if not extended and stat_file(store.root, target):
        set_aside(store, target)  # no record of it was ever kept: out of the way
    with replace_file(store.root, target) as out:
        if extended:
            _copy_bytes(store.root, extended.relative, kept_bytes, out)
        for block in cut_blocks(chunks):
            scanner.feed(block, out.tell())
            out.write(compress_block(block))
        if not scanner.blocks:  # an empty transcript is one empty member
            scanner.feed(b"", 0)
            out.write(compress_block(b""))
        archive_size = out.tell()
    archive = Archive(workspace_id, path, scanner.finish(upload.sha256, archive_size))
    store.forget_session(target)
    record = format_session(archive.session)
    write_file(store.root, record_path(target), record, durable=False)
    return archive


def find_month(chunks: Iterable[bytes]) -> str:
    """Return YYYY/MM of a transcript's first message, else of now, in UTC."""
    scanner = TranscriptScanner()
    for block in cut_blocks(chunks):
        scanner.feed(block, 0)
        if scanner.start:
            break
    scanner.finish("", 0)
    return (scanner.start or format_time(utc_now()))[:7].replace("-", "/")


def _copy_bytes(root: str, relative: str, count: int, out: io.BufferedWriter) -> None:
    """Copy the first `count` bytes of a file."""
    with open_file(root, relative) as file:
        while count:
            data = file.read(min(MIB, count))
            if not data:
                raise Damaged(f"The archive {relative!r} is shorter than its record.")
            out.write(data)
            count -= len(data)


def _journal_archive(store: Store, archive: Archive, action: str, actor: str) -> None:
    """Append the journal line of an archive unless the last one says the same."""
    last = store.journal.ledger(archive.workspace_id).entries.get(archive.path)
    if last is None or last.sha256 != archive.session.sha256:
        args = (archive.path, archive.session.size, archive.session.sha256, actor)
        store.journal.append(archive.workspace_id, action, *args)


# Recovery: make the journal say what the files are.


def reconcile_path(store: Store, workspace_id: str, path: str, action: str) -> None:
    """Journal what is on the disk of a write that was interrupted, and remove what it
    left half-written."""
    folder = f"workspaces/{workspace_id}"
    if path == "registry":
        _reconcile_registry(store)
    elif path.startswith("sessions/"):
        name = split_path(path)[1]
        for relative, _ in list(walk_files(store.root, f"{folder}/sessions")):
            parent, found = split_path(relative)
            if found.startswith(temp_prefix(name)):
                remove_file(store.root, relative)
            elif found.endswith(".jsonl.gz") and session_of(relative) == name:
                _reconcile_archive(store, workspace_id, relative, folder)
    else:
        remove_temps(store.root, f"{folder}/{path}")
        _reconcile_document(store, workspace_id, path, action)


def _reconcile_registry(store: Store) -> None:
    """Journal workspaces that are registered and not journalled, and remove what a
    killed registration left half-written."""
    remove_temps(store.root, REGISTRY_FILE)
    for name, _ in list_directory(store.root, "workspaces"):
        remove_temps(store.root, f"workspaces/{name}/identity.json")
    store.registry.load()
    for workspace_id in store.registry.all():
        if "identity.json" not in store.journal.ledger(workspace_id).entries:
            args = (workspace_id, "registered", "identity.json", 0, "", "recovery")
            store.journal.append(*args)


def _reconcile_archive(
    store: Store, workspace_id: str, relative: str, folder: str
) -> None:
    """Journal an archive whose present bytes are not journalled."""
    path = relative.removeprefix(folder + "/")
    known = store.journal.ledger(workspace_id).entries.get(path)
    action = "extended" if known else "revision" if "~" in path else "stored"
    try:
        archive = Archive(workspace_id, path, store.load_session(workspace_id, path))
        _journal_archive(store, archive, action, "recovery")
    except Damaged as e:
        log.error("archive damaged: %s", e)


def _reconcile_document(
    store: Store, workspace_id: str, path: str, action: str = ""
) -> None:
    """Journal a document whose present text, or whose deletion, is not journalled."""
    last = store.journal.ledger(workspace_id).entries.get(path)
    is_live = last is not None and last.action != "deleted"
    try:
        data = read_file(store.root, f"workspaces/{workspace_id}/{path}")
    except NotFound:
        if action == "deleted" and is_live:  # it was moved to the versions
            args = (path, last.size, last.sha256, "recovery")
            store.journal.append(workspace_id, "deleted", *args)
        return
    if not is_live or last.sha256 != hash_bytes(data):
        args = (path, len(data), hash_bytes(data), "recovery")
        store.journal.append(workspace_id, "updated" if is_live else "created", *args)


def reconcile_workspace(store: Store, workspace_id: str) -> None:
    """Journal everything of a workspace that is on the disk and not journalled."""
    _reconcile_registry(store)
    folder = f"workspaces/{workspace_id}"
    for relative, _ in list(walk_files(store.root, folder)):
        path = relative.removeprefix(folder + "/")
        if path.startswith("sessions/") and path.endswith(".jsonl.gz"):
            _reconcile_archive(store, workspace_id, relative, folder)
        elif path == OVERVIEW or path.startswith("knowledge/"):
            if "/." not in path:
                _reconcile_document(store, workspace_id, path)


