#!/usr/bin/env python3
"""Tests of fedmem: the same rooms in the same order, one class each.

    python3 test_fedmem.py                 everything that needs nothing but Python
    python3 test_fedmem.py StoreTest       one class
    python3 test_fedmem.py --interop DIR   official SDKs and the conformance suite,
                                           installed into DIR when they are not there
"""

from __future__ import annotations

import ast
import base64
import contextlib
import gzip
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

import fedmem

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "fedmem.py"
INTEROP_DIR: str | None = None
AI, SYNC = "ai-token-for-tests", "sync-token-for-tests"
NAMES = {"project": "shop", "machine": "laptop", "tool": "claude-code"}


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def claude_line(role: str, text: str, minute: int = 0, **more: object) -> bytes:
    """Return a line as Claude Code writes it."""
    record = {
        "type": role,
        "message": {"role": role, "content": text},
        "timestamp": f"2026-05-12T{9 + minute // 60:02}:{minute % 60:02}:00.000Z",
        **more,
    }
    return json.dumps(record).encode() + b"\n"


def make_transcript(count: int, filler: int = 0) -> bytes:
    """Return a transcript of `count` messages with `filler` bytes between them."""
    lines = []
    for i in range(count):
        role = "user" if i % 2 == 0 else "assistant"
        lines.append(claude_line(role, f"message {i} says pelican{i}", i % 600))
        if filler:
            blob = {"type": "api-request-blob", "data": sha256(b"%d" % i) * (filler // 64)}
            lines.append(json.dumps(blob).encode() + b"\n")
    return b"".join(lines)


def pack(raw: bytes) -> str:
    """Return bytes as upload_session's `data`."""
    return base64.b64encode(gzip.compress(raw)).decode()


class RootCase(unittest.TestCase):
    """Give each test a root of its own and a store on it."""

    def setUp(self) -> None:
        """Make the root and register one workspace."""
        self.root = tempfile.mkdtemp(prefix="fedmem-test-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        fedmem.log.handlers[:] = []
        fedmem.log.propagate = False
        self.store = self.open_again()
        self.workspace_id = self.register()

    def open_again(self) -> fedmem.Store:
        """Return the root's store, opened as a starting process does."""
        store = fedmem.open_store(self.root)
        self.addCleanup(store.close)
        return store

    def register(self, **changes: str) -> str:
        """Return the id of a registered workspace."""
        identity = {"workspace_id": "", **NAMES, **changes}
        wanted = fedmem.Workspace(**identity)
        return fedmem.register_workspace(self.store, wanted, "sync").workspace_id

    def write(self, path: str, text: str, **more: object) -> fedmem.Receipt:
        """Store a document."""
        args = (self.store, self.workspace_id, path, text.encode(), "sync")
        return fedmem.write_document(*args, **more)

    def upload(self, session_id: str, raw: bytes, start: int = 0, base: str = "") -> dict:
        """Upload a transcript from byte `start` in one piece."""
        piece = fedmem.Piece(start, raw[start:], len(raw), sha256(raw), base)
        return fedmem.receive_piece(
            self.store, self.workspace_id, session_id, piece, "sync"
        )

    def path(self, relative: str) -> str:
        """Return the absolute path of a file of the workspace."""
        return os.path.join(self.root, "workspaces", self.workspace_id, relative)

    def archives(self) -> list[Path]:
        """Return every archive of the workspace."""
        return sorted(Path(self.path("sessions")).rglob("*.jsonl.gz"))

    def journal(self) -> list[dict]:
        """Return every journal line."""
        text = Path(self.root, fedmem.JOURNAL_FILE).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def assert_sound(self) -> None:
        """Assert that a check of a freshly opened root finds nothing."""
        report = fedmem.check_store(self.open_again())
        self.assertEqual(report.problems, [])


class ServerCase(RootCase):
    """Give each test a server on a free port, in this process."""

    settings: dict = {}

    def setUp(self) -> None:
        """Start the server; it listens before this returns."""
        super().setUp()
        flags = {"memory_root": self.root, "port": "0", "mcp_token": AI}
        flags = {**flags, "sync_token": SYNC, **self.settings}
        self.config = fedmem.read_settings(flags, {})
        keys, _ = fedmem.load_keys(self.root, self.config)
        self.server = fedmem.Server(self.store, keys, self.config)
        self.port = self.server.server_address[1]
        thread = threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        )
        thread.start()
        self.addCleanup(self.server.stop)
        self.write_token = keys.make_write_token(self.workspace_id)
        self.binding = keys.make_binding(self.workspace_id)

    def http(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict, bytes]:
        """Return status, headers and body of one HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()

    def post(self, message: object, token: str = AI, **headers: str) -> tuple:
        """Return status and JSON of a POST to /mcp."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        headers = {"Authorization": f"Bearer {token}", **headers}
        status, _, answer = self.http("POST", "/mcp", body, **headers)
        return status, json.loads(answer) if answer else None

    def rpc(self, method: str, params: dict | None = None, token: str = AI) -> dict:
        """Return the result of a legacy request, or its error."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        status, answer = self.post(message, token)
        self.assertEqual(status, 200, answer)
        return answer.get("result") or answer.get("error")

    def call(self, name: str, token: str = AI, **arguments: object) -> str:
        """Return the text of a tool call that succeeds."""
        result = self.rpc("tools/call", {"name": name, "arguments": arguments}, token)
        self.assertIn("content", result)
        text = result["content"][0]["text"]
        self.assertNotIn("isError", result, text)
        return text

    def refuse(self, name: str, token: str = AI, **arguments: object) -> str:
        """Return the text of a tool call that is refused."""
        result = self.rpc("tools/call", {"name": name, "arguments": arguments}, token)
        text = result["content"][0]["text"]
        self.assertTrue(result.get("isError"), text)
        return text

    def sync(self, name: str, **arguments: object) -> dict:
        """Return the JSON of a sync caller's tool call."""
        return json.loads(self.call(name, SYNC, **arguments))

    def put(self, path: str, content: str, **more: object) -> dict:
        """Upload a knowledge document."""
        own = {"workspace_id": self.workspace_id, "write_token": self.write_token}
        return self.sync("upload_knowledge", **own, path=path, content=content, **more)

    def send(self, session_id: str, **arguments: object) -> dict:
        """Call upload_session."""
        own = {"workspace_id": self.workspace_id, "write_token": self.write_token}
        return self.sync("upload_session", **own, session_id=session_id, **arguments)


# ---- 3. Small tools ---------------------------------------------------------


class SmallToolsTest(unittest.TestCase):
    """Time, names, JSON, sizes."""

    def test_times_are_read_in_every_common_form_and_written_in_one(self) -> None:
        """All forms below name the same instant or its date's ends."""
        for text in (
            "2026-11-22T09:10:03.5Z",
            "2026-11-22T10:10:03.500000+01:00",
            "2026-11-22 09:10:03.5",
            "2026-11-22T09:10:03.500123456Z",
            "2026-11-22T04:10:03.5-0500",
        ):
            moment = fedmem.format_time(fedmem.parse_time(text))
            self.assertEqual(moment, "2026-11-22T09:10:03.500Z", text)
        last = fedmem.parse_time("2026-11-22", end=True)
        self.assertEqual(fedmem.format_time(last), "2026-11-22T23:59:59.999Z")
        for text in ("yesterday", "2026-13-01", "22.11.2026", "", "2026-11-22T25:00:00Z"):
            with self.assertRaises(ValueError, msg=text):
                fedmem.parse_time(text)

    def test_slugs_are_never_empty_and_stay_in_ascii(self) -> None:
        """Anything may be a project's name."""
        self.assertEqual(fedmem.make_slug("My Café_Shop!"), "my-cafe-shop")
        self.assertRegex(fedmem.make_slug("記憶"), r"x[0-9a-f]{8}")
        self.assertNotEqual(fedmem.make_slug("記憶"), fedmem.make_slug("記録"))
        self.assertEqual(len(fedmem.make_slug("a" * 300)), fedmem.SLUG_CHARS)

    def test_remotes_of_one_repository_are_equal_in_every_form(self) -> None:
        """ssh, https, with credentials, port or suffix."""
        forms = (
            "git@github.com:acme/shop.git",
            "https://github.com/acme/shop",
            "https://user:secret@GitHub.com/acme/shop.git/",
            "ssh://git@github.com:22/acme/shop.git",
        )
        found = {fedmem.normalise_remote(form) for form in forms}
        self.assertEqual(found, {"github.com/acme/shop"})

    def test_json_that_is_not_json_raises_value_error(self) -> None:
        """NaN, depth, long numbers, bad UTF-8: one kind of error for all."""
        for data in (
            b"NaN",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"1" * 5_000 + b"x",
            b'"\xff"',
            b"",
            b"{}{}",
        ):
            with self.assertRaises(ValueError, msg=data[:20]):
                fedmem.parse_json(data)
        self.assertEqual(fedmem.format_json({"a": "\ud800é"}), '{"a":"\\ud800\\u00e9"}')

    def test_depth_is_measured_in_containers(self) -> None:
        """A list of lists of a number is two deep."""
        self.assertFalse(fedmem.is_deeper([[1]], 2))
        self.assertTrue(fedmem.is_deeper([[1]], 1))
        self.assertTrue(fedmem.is_deeper({"a": {"b": [1]}}, 2))

    def test_parts_join_to_the_text_and_keep_to_the_limit(self) -> None:
        """In bytes, also where characters have several."""
        for text in ("añb\n" * 999, "x" * 1000, "", "日本" * 500, "a\n" * 50):
            parts = fedmem.split_parts(text, 100)
            self.assertEqual("".join(parts), text)
            self.assertTrue(all(len(p.encode()) <= 100 for p in parts))

    def test_foreign_text_cannot_forge_a_log_line(self) -> None:
        """No line ends and no terminal sequences remain."""
        text = fedmem.escape_controls("a\nauth refused: addr=1.2.3.4\x1b[2J\u2028")
        self.assertEqual(len(text.splitlines()), 1)
        self.assertTrue(text.isprintable())


# ---- 4. Files ---------------------------------------------------------------


class FilesTest(RootCase):
    """The only door to the disk."""

    def test_a_durable_write_syncs_before_it_renames_and_the_folder_after(self) -> None:
        """The order of calls, recorded: kill -9 cannot reveal a missing fsync."""
        calls: list[str] = []
        with record_calls(calls):
            self.write("a/b/deep.md", "one")
        folder = f"workspaces/{self.workspace_id}/knowledge"
        made = [c for c in calls if c.startswith("mkdir ")]
        for call in made:  # every parent just created is synced into its own parent
            parent = os.path.dirname(call.split()[1])
            after = calls[calls.index(call) + 1]
            self.assertEqual(after, f"fsync {parent}")
        self.assertEqual(len(made), 3)
        important = [c for c in calls[calls.index(made[-1]) + 2 :]]
        expected = [
            "create .tmp",
            "fsync .tmp",
            f"rename {folder}/a/b/deep.md",
            f"fsync {folder}/a/b",
            f"write {fedmem.JOURNAL_FILE}",
            f"fsync {fedmem.JOURNAL_FILE}",
        ]
        self.assertEqual(important, expected)

    def test_an_archive_is_as_durable_before_its_journal_line(self) -> None:
        """Growth too: temp file, fsync, rename, fsync, journal, fsync."""
        raw = make_transcript(4)
        self.upload("s", raw[:100] + b"\n")
        calls: list[str] = []
        with record_calls(calls):
            grown = raw[:100] + b"\n" + raw
            self.assertEqual(self.upload("s", grown)["status"], "extended")
        name = next(c for c in calls if c.startswith("rename") and c.endswith(".gz"))
        at = calls.index(name)
        self.assertEqual(calls[at - 1], "fsync .tmp")
        self.assertEqual(calls[at + 1], "fsync " + os.path.dirname(name.split()[1]))
        journal = calls.index(f"write {fedmem.JOURNAL_FILE}")
        self.assertGreater(journal, at + 1)
        self.assertEqual(calls[journal + 1], f"fsync {fedmem.JOURNAL_FILE}")

    def test_a_failed_write_leaves_the_old_file_and_no_temp_file(self) -> None:
        """The disk is full in the middle of a write."""
        self.write("a.md", "old")
        with mock.patch("fedmem.os.fsync", side_effect=OSError(28, "No space left")):
            with self.assertRaisesRegex(fedmem.StorageFailed, "Nothing was acknowledged"):
                self.write("a.md", "new")
        self.assertEqual(Path(self.path("knowledge/a.md")).read_text(), "old")
        self.assertEqual(self.write("a.md", "new").status, "updated")
        self.assert_sound()

    def test_no_symbolic_link_is_followed(self) -> None:
        """Links to files and folders, inside and outside the root."""
        outside = Path(self.root, "outside.md")
        outside.write_text("outside")
        self.write("real.md", "inside")
        os.symlink(outside, self.path("knowledge/link.md"))
        os.symlink(self.root, self.path("knowledge/folder"))
        with self.assertRaises(fedmem.NotAllowed):
            fedmem.read_document(self.store, self.workspace_id, "link.md")
        with self.assertRaises(fedmem.NotAllowed):
            fedmem.read_document(self.store, self.workspace_id, "folder/outside.md")
        with self.assertRaises(fedmem.NotAllowed):
            self.write("folder/new.md", "x")
        with self.assertRaises(fedmem.NotAllowed):
            self.write("link.md", "x")
        self.assertEqual(outside.read_text(), "outside")
        listed = fedmem.list_documents(self.store, self.workspace_id)
        self.assertEqual([d.path for d in listed], ["real.md"])

    def test_a_planted_pipe_does_not_stop_the_reader(self) -> None:
        """Opening a FIFO without a writer would block for ever."""
        self.write("a.md", "x")
        os.mkfifo(self.path("knowledge/pipe.md"))
        with self.assertRaises(fedmem.NotAllowed):
            fedmem.read_document(self.store, self.workspace_id, "pipe.md")

    def test_blocks_are_cut_at_line_ends_and_by_content_alone(self) -> None:
        """However the bytes arrive, the blocks are the same."""
        raw = make_transcript(300, 20_000) + b"x" * 3_000_000 + b"\ntail"
        whole = list(fedmem.cut_blocks([raw]))
        pieces = [raw[i : i + 77_777] for i in range(0, len(raw), 77_777)]
        self.assertEqual(whole, list(fedmem.cut_blocks(pieces)))
        self.assertEqual(b"".join(whole), raw)
        self.assertTrue(all(len(block) <= fedmem.BLOCK_BYTES for block in whole))
        self.assertTrue(whole[0].endswith(b"\n"))

    def test_a_gzip_bomb_is_not_unpacked(self) -> None:
        """A gigabyte of zeros in a megabyte is refused at the limit."""
        bomb = gzip.compress(bytes(50_000_000))
        with self.assertRaises(fedmem.TooLarge):
            fedmem.unpack_member(bomb, fedmem.MAX_PIECE_BYTES)
        for data in (b"", b"no gzip", gzip.compress(b"a") * 2, gzip.compress(b"a")[:-3]):
            with self.assertRaises(fedmem.BadRequest, msg=data):
                fedmem.unpack_member(data, 100)

    def test_a_lock_keeps_threads_and_processes_apart(self) -> None:
        """Held here, it is not to be had there."""
        lock = fedmem.FileLock(self.root, "_meta/locks/t")
        self.addCleanup(lock.close)
        code = (
            "import fedmem, sys\n"
            "lock = fedmem.FileLock(sys.argv[1], '_meta/locks/t')\n"
            "with lock.hold(wait=False) as file: print(file is None)\n"
        )

        def ask_process() -> str:
            """Return whether another process finds the lock held."""
            command = [sys.executable, "-c", code, self.root]
            return subprocess.check_output(command, cwd=HERE, text=True).strip()

        with lock.hold():
            self.assertEqual(ask_process(), "True")
            found = []
            thread = threading.Thread(
                target=lambda: found.append(lock.hold(wait=False).__enter__())
            )
            thread.start()
            thread.join()
            self.assertEqual(found, [None])
        self.assertEqual(ask_process(), "False")


@contextlib.contextmanager
def record_calls(calls: list[str]):
    """Record the disk calls that durability depends on, by what they name."""
    real = {n: getattr(os, n) for n in ("fsync", "rename", "mkdir", "open", "write")}

    def name_of(fd: int) -> str:
        """Return the path of a descriptor, from the root."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if fedmem.TEMP_MARK in path:
            return ".tmp"
        return re.sub(r"^.*?fedmem-test-[^/]*/?", "", path)

    def join(path: str, fd: int | None) -> str:
        """Return the path of a name below a descriptor."""
        return (name_of(fd) + "/" if fd is not None else "") + path

    def fsync(fd: int) -> None:
        """Record and sync."""
        calls.append(f"fsync {name_of(fd)}")
        real["fsync"](fd)

    def rename(old: str, new: str, **fds: int) -> None:
        """Record and rename."""
        real["rename"](old, new, **fds)
        if not new.endswith(".json"):  # derived records are a cache
            calls.append(f"rename {join(new, fds.get('dst_dir_fd'))}")

    def mkdir(path: str, *args: int, dir_fd: int | None = None) -> None:
        """Record and make."""
        real["mkdir"](path, *args, dir_fd=dir_fd)
        calls.append(f"mkdir {join(path, dir_fd)}")

    def open_(path: str, flags: int, *args: int, **more: int) -> int:
        """Record what is created new."""
        if flags & os.O_EXCL:
            calls.append("create .tmp")
        return real["open"](path, flags, *args, **more)

    def write(fd: int, data: bytes) -> int:
        """Record and write."""
        calls.append(f"write {name_of(fd)}")
        return real["write"](fd, data)

    fakes = {"fsync": fsync, "rename": rename, "mkdir": mkdir}
    fakes = {**fakes, "open": open_, "write": write}
    with contextlib.ExitStack() as stack:
        for name, fake in fakes.items():
            stack.enter_context(mock.patch.object(fedmem.os, name, fake))
        yield


# ---- 6. Options -------------------------------------------------------------


class OptionsTest(unittest.TestCase):
    """Flag, then variable, then default."""

    def test_a_flag_goes_before_a_variable_before_a_default(self) -> None:
        """For every option alike."""
        self.assertEqual(fedmem.read_settings({}, {})["port"], "8000")
        self.assertEqual(fedmem.read_settings({}, {"PORT": "1"})["port"], "1")
        self.assertEqual(fedmem.read_settings({"port": "2"}, {"PORT": "1"})["port"], "2")

    def test_a_wrong_value_is_refused_by_its_name(self) -> None:
        """The operator reads which variable and why."""
        for name, value in (
            ("PORT", "http"),
            ("PORT", "70000"),
            ("REDACT", "maybe"),
            ("MCP_TOKEN", "two words"),
        ):
            with self.assertRaisesRegex(fedmem.BadRequest, name):
                fedmem.read_settings({}, {name: value})
        with self.assertRaisesRegex(fedmem.BadRequest, "must differ"):
            fedmem.read_settings({}, {"MCP_TOKEN": "a", "SYNC_TOKEN": "a"})


# ---- 7. Secrets -------------------------------------------------------------

# Made up, in the shape of the real ones; the halves are joined so that no scanner
# takes this file for a leak.
SECRETS = {
    "aws-key": "AKIA" + "IOSFODNN7EXAMPLE",
    "github-token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "anthropic-key": "sk-ant-" + "api03-Zx9Yw8Vu7Ts6Rq5Po4Nm3Lk2Ji1Hg0",
    "openai-key": "sk-proj-" + "Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9St0Uv",
    "google-key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "slack-token": "xoxb-" + "123456789012-abcdefABCDEF123456",
    "stripe-key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "npm-token": "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKC\n"
    + "AQEA7bq\n-----END RSA PRIVATE KEY-----",
    "url-password": "hunter2" + "pass",
    "secret": "Xk29fja" + "KLs0qWm4",
}
CARRIERS = {
    "url-password": "postgres://app:{}@db.example.com/shop",
    "secret": "export DB_PASSWORD={}",
}


def carry(kind: str) -> str:
    """Return a sentence that has a secret of a kind in it."""
    return "before " + CARRIERS.get(kind, "it is {}").format(SECRETS[kind]) + " after"


class SecretsTest(RootCase):
    """Tokens, signatures, masking."""

    def test_every_kind_of_secret_is_masked_and_named(self) -> None:
        """And what stands around it survives."""
        for kind, value in SECRETS.items():
            masked = fedmem.mask_secrets(carry(kind))
            self.assertNotIn(value, masked, kind)
            self.assertIn(f"[redacted:{kind}]", masked)
            self.assertTrue(masked.startswith("before ") and masked.endswith(" after"))

    def test_assignments_are_masked_in_shell_json_yaml_and_code(self) -> None:
        """By the value's shape, whatever the punctuation."""
        value = SECRETS["secret"]
        for text in (
            f"API_KEY={value}",
            f'"client_secret": "{value}"',
            f'{{\\"access_token\\":\\"{value}\\"}}',
            f"password: {value}",
            f"apiKey := '{value}'",
            f"--auth-token={value}",
        ):
            self.assertNotIn(value, fedmem.mask_secrets(text), text)

    def test_prose_and_code_survive(self) -> None:
        """Words about secrets are no secrets."""
        for text in (
            "The password is stored in the vault; ask for the token.",
            "token = get_token(request)",
            "api_key: str | None = None",
            "SECRET_KEY=${SECRET_KEY}",
            "password=changeme",
            "the keyboard-shortcut=ctrl+shift",
            "see https://example.com/a:b@c and me@example.com",
            "sk-learn-and-other-long-package-names",
            "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
            "ghp_short and AKIA alone",
            "token_count: 123456789012",
        ):
            self.assertEqual(fedmem.mask_secrets(text), text)

    def test_json_escapes_do_not_hide_a_secret_in_a_raw_line(self) -> None:
        """A key written as \\u0041KIA... is masked all the same."""
        key = SECRETS["aws-key"]
        hidden = '{"type":"user","text":"\\u0041' + key[1:] + '"}'
        self.assertNotIn(key[1:], fedmem.mask_line(hidden))
        plain = '{"type": "user",  "text":"nothing to hide \\u0041"}'
        self.assertEqual(fedmem.mask_line(plain), plain)

    def test_masking_takes_linear_time(self) -> None:
        """A megabyte of what almost matches is done in a second or so."""
        for text in ("sk-" * 300_000, "a" * 1_000_000, "eyJ" * 300_000, "key=" * 250_000,
                     "-----BEGIN RSA PRIVATE KEY-----" * 300, "x://" * 250_000):
            started = time.perf_counter()
            fedmem.mask_secrets(text)
            self.assertLess(time.perf_counter() - started, 5, text[:10])

    def test_a_token_has_one_scope_and_other_text_none(self) -> None:
        """Empty, longer, non-ASCII and swapped tokens open nothing."""
        keys = fedmem.Keys("ai", "sync", b"k", 1)
        self.assertEqual(keys.scope_of("ai"), "ai")
        self.assertEqual(keys.scope_of("sync"), "sync")
        for text in ("", "a", "aii", "AI", "é", "\udcff"):
            self.assertIsNone(keys.scope_of(text))

    def test_signatures_fit_one_workspace_and_one_purpose(self) -> None:
        """A binding is no write_token, and neither opens a neighbour."""
        keys = fedmem.Keys("ai", "sync", b"k", 1)
        binding = keys.make_binding("a-b-c")
        self.assertEqual(keys.require_binding(binding), "a-b-c")
        self.assertRegex(binding, r"^a-b-c\.[0-9a-f]{24}$")
        token = keys.make_write_token("a-b-c")
        keys.require_write_token("a-b-c", token)
        other = fedmem.Keys("ai", "sync", b"other", 1)
        for bad in ("", "a-b-c", "a-b-d." + binding[-24:], token, "é", "\ud800"):
            with self.assertRaises(fedmem.NotAllowed, msg=bad):
                keys.require_binding(bad)
        for wrong in (keys.make_write_token("a-b-d"), other.make_write_token("a-b-c")):
            with self.assertRaises(fedmem.NotAllowed):
                keys.require_write_token("a-b-c", wrong)

    def test_tokens_are_made_once_and_kept_private(self) -> None:
        """Mode 0600; configured tokens are never written down."""
        settings = fedmem.read_settings({"memory_root": self.root}, {})
        keys, is_first = fedmem.load_keys(self.root, settings)
        again, is_second = fedmem.load_keys(self.root, settings)
        self.assertEqual((keys, is_first, is_second), (again, True, False))
        for name in ("_meta/tokens.json", "_meta/secret"):
            self.assertEqual(os.stat(Path(self.root, name)).st_mode & 0o777, 0o600)
        given = {**settings, "mcp_token": "mine", "sync_token": "too"}
        configured, is_made = fedmem.load_keys(self.root, given)
        self.assertEqual((configured.mcp_token, is_made), ("mine", False))
        self.assertNotIn("mine", Path(self.root, "_meta/tokens.json").read_text())


# ---- 8. Transcripts ---------------------------------------------------------

CODEX_LINES = [
    {"type": "session_meta", "payload": {"id": "x", "base_instructions": {"text": "INJECTED"}}},
    {"type": "response_item", "payload": {"type": "message", "role": "developer",
     "content": [{"type": "input_text", "text": "INJECTED"}]}},
    {"type": "response_item", "payload": {"type": "message", "role": "user",
     "content": [{"type": "input_text", "text": "INJECTED"}],
     "internal_chat_message_metadata_passthrough":
     {"content_item_kinds": ["environments.environment_context"]}}},
    {"type": "response_item", "payload": {"type": "message", "role": "user",
     "content": [{"type": "input_text", "text": "hello git"}],
     "internal_chat_message_metadata_passthrough": {"content_item_kinds": ["user.text"]}}},
    {"type": "event_msg", "payload": {"type": "item_completed", "item": {
     "type": "UserMessage", "content": [{"type": "text", "text": "hello git"}]}}},
    {"type": "response_item", "payload": {"type": "function_call", "name": "shell",
     "arguments": "{\"command\":\"ls\"}"}},
    {"type": "response_item", "payload": {"type": "function_call_output",
     "output": [{"type": "input_text", "text": "a.txt"}]}},
    {"type": "response_item", "payload": {"type": "function_call_output",
     "output": [{"type": "input_text", "text": "INJECTED"}]},
     "metadata": {"mcp_attribution": {"sources": [{"server_name": "fedmem"}]}}},
    {"type": "event_msg", "payload": {"type": "item_completed", "item": {
     "type": "AgentMessage", "content": [{"type": "Text", "text": "One file."}]}}},
    {"type": "response_item", "payload": {"type": "message", "role": "assistant",
     "content": [{"type": "output_text", "text": "One file."}]}},
]
CLAUDE_LINES = [
    {"type": "mode", "mode": "normal"},
    {"type": "user", "message": {"role": "user", "content": "fix the login"}},
    {"type": "attachment", "attachment": {"type": "hook_success", "content": "INJECTED"}},
    {"type": "api-request-blob", "message": {"role": "user", "content": "INJECTED"}},
    {"type": "assistant", "message": {"role": "assistant", "content": [
     {"type": "thinking", "thinking": "hidden"}, {"type": "text", "text": "Looking."}]}},
    {"type": "assistant", "message": {"role": "assistant", "content": [
     {"type": "tool_use", "name": "Bash", "input": {"command": "pytest -k login"}}]}},
    {"type": "user", "message": {"role": "user", "content": [{"type": "tool_result",
     "content": "1 failed<system-reminder>INJECTED</system-reminder>", "is_error": True}]}},
    {"type": "user", "isMeta": True, "message": {"role": "user", "content": "INJECTED"}},
    {"type": "user", "message": {"role": "user",
     "content": "<system-reminder>INJECTED</system-reminder>"}},
    {"type": "user", "message": {"role": "user", "content": "<command-name>/x</command-name>"}},
    {"type": "user", "message": {"role": "user", "content": [{"type": "tool_result",
     "content": [{"type": "text", "text": "[fedmem] INJECTED page of this memory"}]}]}},
    {"type": "user", "mcpMeta": {"_meta": {"io.modelcontextprotocol/serverInfo":
     {"name": "fedmem"}}}, "message": {"role": "user", "content": [
     {"type": "tool_result", "content": "INJECTED"}]}},
    {"type": "user", "isCompactSummary": True, "isVisibleInTranscriptOnly": True,
     "message": {"role": "user", "content": "We fixed half."}},
    {"type": "system", "subtype": "compact_boundary", "content": "Conversation compacted"},
    {"type": "user", "isSidechain": True, "message": {"role": "user", "content": "sub task"}},
]


def to_jsonl(records: list[dict]) -> bytes:
    """Return records as a transcript, one second apart."""
    lines = []
    for i, record in enumerate(records):
        stamp = f"2026-05-12T09:00:{i:02}.000Z"
        lines.append(json.dumps({"timestamp": stamp, **record}).encode() + b"\n")
    return b"".join(lines)


def scan(raw: bytes) -> fedmem.Session:
    """Return the session of a transcript."""
    scanner = fedmem.TranscriptScanner()
    for block in fedmem.cut_blocks([raw]):
        scanner.feed(block, 0)
    return scanner.finish(sha256(raw), 0)


def read_all(raw: bytes) -> list[fedmem.Message]:
    """Return every message that a reader of a transcript sees."""
    uses_items = scan(raw).uses_items
    records = [fedmem.parse_record(line) for line in raw.splitlines(keepends=True)]
    messages = [fedmem.parse_message(record) for record in records if record]
    return [m for m in messages if fedmem.is_shown(m, uses_items)]


class TranscriptsTest(unittest.TestCase):
    """Claude Code and Codex JSONL to messages."""

    def test_a_claude_transcript_shows_the_conversation_and_nothing_injected(self) -> None:
        """Reminders, hooks, meta lines and this memory's own pages are dropped."""
        shown = [(m.role, m.text) for m in read_all(to_jsonl(CLAUDE_LINES))]
        expected = [
            ("user", "fix the login"),
            ("assistant", "Looking."),
            ("assistant", '→ Bash {"command":"pytest -k login"}'),
            ("tool", "← error: 1 failed"),
            ("summary", "We fixed half."),
            ("task", "sub task"),
        ]
        self.assertEqual(shown, expected)

    def test_a_codex_transcript_shows_what_was_said_once(self) -> None:
        """Events and response items repeat each other; provenance marks what is not
        the user's."""
        shown = [(m.role, m.text) for m in read_all(to_jsonl(CODEX_LINES))]
        expected = [
            ("user", "hello git"),
            ("assistant", '→ shell {"command":"ls"}'),
            ("tool", "← a.txt"),
            ("assistant", "One file."),
        ]
        self.assertEqual(shown, expected)

    def test_a_codex_transcript_without_events_falls_back_to_its_items(self) -> None:
        """Then the known beginnings of injected text are what is left out."""
        records = [r for r in CODEX_LINES if r["type"] != "event_msg"]
        old = {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "<environment_context>INJECTED"}]}
        records.insert(2, {"type": "response_item", "payload": old})
        texts = [m.text for m in read_all(to_jsonl(records))]
        self.assertEqual(texts[0], "hello git")
        self.assertEqual(texts[-1], "One file.")
        self.assertNotIn("INJECTED", "".join(texts))

    def test_titles_times_and_counts_are_derived(self) -> None:
        """The first prompt is the title until the tool names the session."""
        session = scan(to_jsonl(CLAUDE_LINES))
        self.assertEqual((session.title, session.messages), ("fix the login", 6))
        self.assertEqual(session.start, "2026-05-12T09:00:01.000Z")
        self.assertEqual(session.end, "2026-05-12T09:00:14.000Z")
        self.assertEqual(session.lines, len(CLAUDE_LINES))
        titled = [*CLAUDE_LINES, {"type": "ai-title", "aiTitle": "Login"},
                  {"type": "custom-title", "customTitle": "Mine"},
                  {"type": "ai-title", "aiTitle": "Again"}]
        self.assertEqual(scan(to_jsonl(titled)).title, "Mine")
        self.assertEqual(scan(to_jsonl(CODEX_LINES)).title, "hello git")

    def test_garbage_is_counted_as_lines_and_shown_as_nothing(self) -> None:
        """Binary, torn JSON, wrong shapes and endless lines harm nothing."""
        raw = b"".join([
            b"\xff\xfe\x00 not json\n",
            b'{"type":"user","message":{"content":"torn\n',
            b'{"type":"user","message":null}\n',
            b'{"type":"user"}\n',
            b'{"type":"assistant","message":{"content":[1,null,{"type":"text","text":5}]}}\n',
            b'{"type":"event_msg","payload":[]}\n',
            b'{"type":"response_item","payload":{"type":"function_call_output","output":7}}\n',
            b"[" * 100_000 + b'"type":"user"\n',
            b'{"type":"user","message":{"content":"' + b"x" * 5_000_000 + b'"}}\n',
            claude_line("user", "still here"),
            b"no line end",
        ])
        self.assertEqual([m.text for m in read_all(raw)][-1], "still here")
        self.assertEqual(scan(raw).lines, 11)

    def test_a_scan_continued_at_any_block_ends_like_a_whole_one(self) -> None:
        """Also where a block begins in the middle of a line."""
        raw = make_transcript(60, 60_000) + claude_line("user", "y" * 2_500_000)
        raw += make_transcript(30, 60_000)
        blocks = list(fedmem.cut_blocks([raw]))
        whole = scan(raw)
        self.assertTrue(any(block.is_cut for block in whole.blocks))
        for at, block in enumerate(whole.blocks):
            if not block.is_cut:
                scanner = fedmem.TranscriptScanner(whole, at)
                for content in blocks[at:]:
                    scanner.feed(content, 0)
                self.assertEqual(scanner.finish(sha256(raw), 0), whole)


if __name__ == "__main__":
    unittest.main()
