"""A program in a terminal of its own, for what asks for one.

    with Terminal("hermes", "chat") as terminal:
        terminal.wait(lambda: "❯" in terminal.shown)
        terminal.press("hello", "\\r")

On leaving it waits for the program's end and prints what was shown.
"""
import os
import pty
import threading
import time
from collections.abc import Callable


class Terminal:
    def __init__(self, *command: str) -> None:
        self.data = b""
        self.child, self.file = pty.fork()
        if not self.child:
            os.environ["TERM"] = "xterm"
            os.execvp(command[0], command)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    @property
    def shown(self) -> str:
        return self.data.decode(errors="replace")

    def read(self) -> None:
        try:
            while data := os.read(self.file, 65536):
                self.data += data
                if b"\x1b[6n" in data:  # where is the cursor?
                    os.write(self.file, b"\x1b[1;1R")
        except OSError:
            pass  # the program has ended

    def wait(self, condition: Callable[[], bool], seconds: int = 60) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise SystemExit(f"waited in vain, shown:\n{self.shown[-3000:]}")
            time.sleep(0.2)
        time.sleep(1)

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self.file, key.encode())
            time.sleep(1)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0]:
            os.kill(self.child, 15)
        os.waitpid(self.child, 0)
        print(self.shown)
