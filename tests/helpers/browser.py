"""A headless Chromium for tests, controlled through the DevTools protocol over a pair of pipes: no driver, no
sockets."""

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
PATIENCE = 20.0  # seconds


class Browser:
    """A page. `events` are all events that Chromium reported about it, as (method, parameters)."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        down_read, self._down = os.pipe()
        self._up, up_write = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4; bash can put them there.
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={self.profile.name}", "about:blank"]
        redirected = f'exec "$@" 3<&{down_read} 4>&{up_write}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", *command],
            pass_fds=(down_read, up_write),
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self.events: list[tuple[str, dict]] = []
        self._rest, self._number, self._session = b"", 0, None
        pages = self.send("Target.getTargets")["targetInfos"]
        (page,) = [target["targetId"] for target in pages if target["type"] == "page"]
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._down)
        os.close(self._up)
        self.profile.cleanup()

    def send(self, method: str, **parameters) -> dict:
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append((answer["method"], answer["params"]))

    def open(self, file: Path, *, scheme: str = "light", motion: str = "no-preference", width: int = 1100) -> None:
        """Loads a file with these user preferences."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.send("Page.navigate", url=file.resolve().as_uri())
        self.wait(lambda: self.value("document.readyState") == "complete")

    def value(self, expression: str) -> object:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Presses a key, given with its Windows key code."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds; fails after PATIENCE."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.02)

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._up], [], [], PATIENCE)
            more = os.read(self._up, 1 << 20) if ready else b""
            assert more, "Chromium has ended, or hangs"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)
