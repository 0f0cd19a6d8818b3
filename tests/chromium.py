"""A headless Chromium, driven over its DevTools protocol: open a page, read it, press keys, take its picture."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--remote-debugging-port=0", "--remote-allow-origins=*", "--force-color-profile=srgb",
)  # fmt: skip
START_S = 60.0
WAIT_S = 30.0


def find_chromium() -> str | None:
    """Where it is on this machine, if it is."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Page:
    """One tab. Every message of its console and every uncaught error is kept."""

    def __init__(self, address: str) -> None:
        self._socket = connect(address, max_size=None, compression=None)
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        self.requested: list[str] = []
        """Addresses of everything that the page fetched."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; its result. RuntimeError if the browser refuses it."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(WAIT_S))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(
                    " ".join(str(one.get("value", one.get("description"))) for one in parameters["args"])
                )
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.console.append(str(details.get("exception", {}).get("description", details["text"])))
            case "Log.entryAdded":
                self.console.append(str(parameters["entry"]["text"]))
            case "Network.requestWillBeSent":
                self.requested.append(str(parameters["request"]["url"]))

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size in px, and which colours its person likes."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page, also the same one again. What is pressed before it is painted would be lost."""
        self.read("window.left = true")
        self.call("Page.navigate", url=url)
        self.wait("!window.left && document.readyState === 'complete'")
        self.read("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises awaited. RuntimeError if it throws."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{expression}: {reply['exceptionDetails'].get('exception', {}).get('description')}")
        return reply["result"].get("value")

    def text(self, selector: str) -> str:
        """What a person reads in an element."""
        return str(self.read(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait(self, expression: str, within_s: float = WAIT_S) -> None:
        """Until it is true. AssertionError, with the page's state, if that does not come."""
        until_s = time.monotonic() + within_s
        while not self.read(expression):
            assert time.monotonic() < until_s, f"not within {within_s} s: {expression}; console {self.console[-5:]}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key and let it go: a letter, or a name as in DOM events, for example `Enter`."""
        codes = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9), " ": (" ", 32)}
        text, code = codes.get(key, (key, ord(key[0].upper())))
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **({"text": text} if text else {}), **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Leave the tab."""
        self._socket.close()


@contextlib.contextmanager
def browsing(program: str, folder: Path) -> Iterator[Page]:
    """A page of a browser with a fresh profile in a folder; the browser and all its processes end with the block."""
    profile = folder / "profile"
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        port = _port(profile / "DevToolsActivePort", process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as reply:
            tabs = [tab for tab in json.load(reply) if tab["type"] == "page"]
        page = Page(tabs[0]["webSocketDebuggerUrl"])
        try:
            yield page
        finally:
            page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """Where the browser listens, once it does."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start: {(file.parent.parent / 'chromium.log').read_text()[-500:]}")
