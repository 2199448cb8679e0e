"""A headless Chromium, driven over a pipe by the DevTools protocol: no driver and no library beside it."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. `console` gathers errors and warnings, `requests` the addresses that were asked for."""

    def __init__(self, send, receive):
        self.send, self.receive, self.buffer, self.numbers = send, receive, b"", itertools.count(1)
        self.console, self.requests, self.loaded, self.session = [], [], 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Sends a command and returns its result; what happens meanwhile is noted."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        os.write(self.send, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while (answer := self.next()).get("id") != number:
            self.note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def next(self, seconds=60):
        while b"\0" not in self.buffer:
            assert select.select([self.receive], [], [], seconds)[0], "Chromium does not answer"
            data = os.read(self.receive, 1 << 20)
            assert data, "Chromium has ended"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(params["exceptionDetails"].get("exception", {}).get("description", str(params)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded += 1

    def open(self, path, width=1400, height=900, dark=False, touch=False):
        """Opens a file in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        before = self.loaded
        self.call("Page.navigate", url=Path(path).resolve().as_uri() if not str(path).startswith("file:") else path)
        while self.loaded == before:
            self.note(self.next())

    def run(self, script):
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script, seconds=20):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"still not true: {script}"
            time.sleep(0.05)

    def mouse(self, kind, x, y, pressed=False):
        """kind: mouseMoved, mousePressed, mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if pressed else "none",
                  clickCount=int(pressed))

    def touch(self, kind, *point):
        """kind: touchStart, touchMove, touchEnd (without a point)."""
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[dict(zip("xy", point))] if point else [])

    def key(self, name):
        """Presses a key such as ArrowRight."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Escape": 27, "Tab": 9}[name]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium():
    """A Browser, for as long as it is needed."""
    to_child, from_child = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # DevTools speaks on the file descriptors 3 and 4; bash puts them there.
        child = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_child[0]} 4>&{from_child[1]}', "bash", CHROMIUM, "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_child[0], from_child[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (to_child[0], from_child[1]):
            os.close(end)
        try:
            yield Browser(to_child[1], from_child[0])
        finally:
            for end in (to_child[1], from_child[0]):
                os.close(end)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
