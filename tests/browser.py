"""A page in a real, headless Chromium, driven over its debugging protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import websocket

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
CODES = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")


class Browser:
    """Opens pages one after the other in one profile folder, so that what a page stores is there again later.

    Attributes:
        events: What happened, as the protocol tells it.
        answers: Start of an address -> (content type, body) that a request to it is answered with; see `serve`.
    """

    def __init__(self, folder: Path, *, width: int = 800, height: int = 900):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        options += ["--remote-allow-origins=*", f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen([CHROMIUM, *options, "about:blank"], stderr=subprocess.DEVNULL)
        port_file, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if time.monotonic() > deadline:
                self.close()
                raise TimeoutError("Chromium did not start within a minute")
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        self._socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)
        self._number, self.events, self.answers = 0, [], {}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict:
        """Send a command of the protocol and return its result; what happens meanwhile goes into `events`."""
        number = self._post(method, **parameters)
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)
            self._react(message.get("method"), message.get("params"))

    def _react(self, event: str, about: dict) -> None:
        """Leave a page that asks whether it may be left, and answer requests that `serve` told of."""
        if event == "Page.javascriptDialogOpening":
            self._post("Page.handleJavaScriptDialog", accept=True)
        if event == "Fetch.requestPaused":
            url = about["request"]["url"]
            kind, body = next(answer for start, answer in self.answers.items() if url.startswith(start))
            headers = [{"name": "Content-Type", "value": kind}]
            self._post("Fetch.fulfillRequest", requestId=about["requestId"], responseCode=200,
                       responseHeaders=headers, body=base64.b64encode(body).decode())  # fmt: skip

    def _post(self, method: str, **parameters) -> int:
        """Send a command without waiting for its result, which joins the events; return its number."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        return self._number

    def serve(self, start: str, body: bytes, *, kind: str = "text/html") -> None:
        """Answer requests to addresses that begin with `start` in place of the network."""
        self.answers[start] = (kind, body)
        self.send("Fetch.enable", patterns=[{"urlPattern": f"{start}*"} for start in self.answers])

    def happened(self, method: str) -> list[dict]:
        """Return the parameters of the events of that name so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def photograph(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def open(self, url: str) -> None:
        """Go to `url` and wait until it is loaded."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str):
        """Return what `script` evaluates to."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until `condition` is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key, as a person does."""
        code = {"windowsVirtualKeyCode": CODES[key], "code": key} if key in CODES else {}
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **code, **(text if kind == "keyDown" else {}))

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
