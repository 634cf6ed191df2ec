"""A headless Chromium, spoken to in its DevTools protocol over a pipe: what a page loads, how it lies and looks."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OFF = ["gpu", "quic", "background-networking", "component-update", "sync", "extensions", "dev-shm-usage"]
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe", *(f"--disable-{x}" for x in OFF)]
PATIENCE = 120  # seconds between two messages


class Browser:
    """One page. Use as a context manager; it holds no state beyond a temporary profile."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.profile = tempfile.mkdtemp(prefix="diffalign-chromium-")
        their_end, self.write = os.pipe()
        self.read, their_other_end = os.pipe()
        # Chromium reads from 3 and writes to 4; the shell moves the pipes there.
        shell = f'exec "$@" 3<&{their_end} 4>&{their_other_end}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", PROGRAM, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(their_end, their_other_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_end)
        os.close(their_other_end)
        self.buffer, self.count, self.session = b"", 0, ""
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Network.enable")
        self.call("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Sends one command and returns its result; requests that the page makes meanwhile are noted."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": options}
        os.write(
            self.write, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Shows a local file or an address in a window of a size, in the light or the dark; waits until it's loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.requests.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while self.evaluate("document.readyState") != "complete":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; the page's own security policy doesn't bind it."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str, repeat: bool = False) -> None:
        """Presses a key, such as ArrowLeft or b; `repeat`: as one that is held down sends it again."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, autoRepeat=repeat and kind == "keyDown", **text)

    def wait(self, expression: str) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Writes a PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], PATIENCE)[0], f"Chromium said nothing for {PATIENCE} s"
            data = os.read(self.read, 1 << 20)
            assert data, "Chromium has ended"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message
