"""A real Chromium, driven by the DevTools protocol over two pipes: no library, no port, no network.

https://chromedevtools.github.io/devtools-protocol/; ``--remote-debugging-pipe`` reads commands from descriptor 3 and
writes answers and events to descriptor 4, JSON ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60.0
KEYS = {
    "ArrowLeft": ("ArrowLeft", 37),
    "ArrowRight": ("ArrowRight", 39),
    "Backspace": ("Backspace", 8),
    "Enter": ("Enter", 13),
    **{str(digit): (f"Digit{digit}", 48 + digit) for digit in range(1, 10)},
}
"""Code and number of the keys that tests press."""


class Chromium:
    """One tab at a time, each in a context of its own: nothing of an earlier one's storage is there."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest, self._number = commands, answers, b"", 0
        self._session: str | None = None
        self._context: str | None = None
        self.events: list[dict[str, Any]] = []

    def new_tab(self) -> None:
        """Close the tab and open another one in a new context."""
        self._session = None
        if self._context is not None:
            self.send("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's answer; events that arrive before it are collected."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium has not answered within {SECONDS:.0f} s"
            read = os.read(self._answers, 1 << 20)
            assert read, "Chromium has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Load a file, or load it again."""
        self.send("Page.navigate", url=path.as_uri())
        self.wait(lambda: self.value("document.readyState") == "complete" and "file:" in self.value("location.href"))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until a condition holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press a key and let go of it, as a keyboard does."""
        code, number = KEYS[key]
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def tap(self, selector: str) -> None:
        """Touch the middle of an element with a finger; it must lie on the screen."""
        box = self.value(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2, innerWidth, innerHeight]; })()"
        )
        assert 0 < box[0] < box[2] and 0 < box[1] < box[3], f"{selector} is not on the screen: {box}"
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def phone(self, width: int = 390, height: int = 844) -> None:
        """Show what a telephone shows, and take fingers."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)

    def photograph(self, path: Path) -> None:
        """The page as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def downloads_to(self, folder: Path) -> None:
        """Where files are saved."""
        where = {"browserContextId": self._context, "downloadPath": str(folder)}
        self.send("Browser.setDownloadBehavior", behavior="allow", **where)

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Errors and warnings of the page: exceptions, and what its policy forbade."""
        self.value("0")
        logged = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        raised = [str(e["params"]) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        return logged + raised


@contextmanager
def chromium(profile: Path) -> Generator[Chromium]:
    """A headless Chromium with a profile of its own and no tab yet, ended with the block."""
    to_browser, from_browser = os.pipe(), os.pipe()

    def descriptors() -> None:
        for given, wanted in ((to_browser[0], 13), (from_browser[1], 14), (13, 3), (14, 4)):
            os.dup2(given, wanted)

    assert PROGRAM is not None
    flags = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
    flags += ["--disable-gpu", "--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen(
        [PROGRAM, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=descriptors,
        pass_fds=(3, 4),
        start_new_session=True,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Chromium(to_browser[1], from_browser[0])
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
