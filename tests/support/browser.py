"""A headless Chromium, driven by its own protocol: it opens, measures and photographs pages, and notes complaints."""

import base64
import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files"]
BROKEN = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
WIDER = "Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth)"


class Page:
    """One tab.

    Attributes:
        complaints: errors of the console, exceptions, and requests that failed, since the page was opened.
    """

    def __init__(self, socket: Any):
        self._socket, self._sent = socket, 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict:
        """Sends a command and returns its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            self._note(message)
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.complaints.append(params["errorText"])
        elif method == "Network.requestWillBeSent" and params["request"]["url"].startswith("http"):
            self.complaints.append(f"a request to the network: {params['request']['url']}")

    def open(self, path: Path, query: str = "", width: int = 1280, dark: bool = False) -> "Page":
        """Opens a file at this width, in light or dark, and waits until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints.clear()
        self.send("Page.navigate", url=path.resolve().as_uri() + query)
        ending = json.dumps(urllib.parse.quote(path.name))
        self.wait_for(f"document.readyState == 'complete' && location.pathname.endsWith({ending})")
        return self

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it comes to."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str, tries: int = 100) -> None:
        """Waits until an expression is true."""
        pause = "new Promise(done => setTimeout(() => done(Boolean({})), 100))"
        assert any(self.run(pause.format(condition)) for _ in range(tries)), f"in vain: {condition}"

    def broken_images(self) -> list[str]:
        """Images that did not load, those below the fold too."""
        self.run("[...document.images].forEach(i => i.loading = 'eager')")
        self.wait_for("[...document.images].every(i => i.complete)")
        return self.run(BROKEN)

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.run(WIDER)

    def photograph(self, path: Path) -> None:
        """Writes what is seen to a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with a profile of its own, for the block."""
    import websocket

    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
    process = subprocess.Popen([*command, "about:blank"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        address = next(line.split()[-1] for line in process.stderr if "DevTools listening on" in line)
        browser = websocket.create_connection(address, timeout=60)
        browser.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        target = json.loads(browser.recv())["result"]["targetId"]
        server = address.partition("/devtools/")[0]
        page = websocket.create_connection(f"{server}/devtools/page/{target}", timeout=60)
        yield Page(page)
        page.close()
        browser.close()
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()
