"""Fetching weights from servers that break off, lie, redirect and refuse; all on this machine.

Small contents and a small check stand in for networks, except in the last test, which asks the real loaders.
"""

import hashlib
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import SUITE

from tools import download_weights
from tools.download_weights import WEIGHTS, Weights, main, problem
from utils.errors import UserError
from utils.locks import locked

CONTENT = b"weights:" + bytes(range(256)) * 1500  # more than one block
SHA = hashlib.sha256(CONTENT).hexdigest()
DRIVE = "https://drive.google.com/uc?id=1"


def check(path):
    """Stands in for a network's loader, and words its refusal like one."""
    if not path.read_bytes().startswith(b"weights:"):
        raise UserError(f"{path}: not the weights of Net: a is missing; get them with: python -m tools.any")


def reply(content=CONTENT, status=200, length=None, **headers):
    """An answer of the server: a function of the request's handler."""
    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(content) if length is None else length, **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
    return answer


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def stalled(handler):
    reply(CONTENT[:1000], length=len(CONTENT))(handler)
    time.sleep(2)


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) -> the URL of a folder on a server that gives this answer to each request."""
    monkeypatch.setattr(download_weights, "TIMEOUT", 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def serve(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.close_connection = True
                try:
                    answer(self)
                except ConnectionError:
                    pass  # the client has seen enough

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/files"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def get(tmp_path, capsys):
    """get(origin, ...) fetches net.pth from there to the folder new; gives the exit code and what was printed."""
    def get(origin, *words, sha=SHA, url="http://127.0.0.1:1/never/net.pth"):
        table = [Weights("net", url, "somewhere/net.pth", len(CONTENT), sha, check)]
        with pytest.raises(SystemExit) as stop:
            main([*(["--from", str(origin)] if origin else []), "--to", str(tmp_path / "new"), *words], table)
        out, err = capsys.readouterr()
        left = {path.name for path in (tmp_path / "new").glob("*")} - {".lock"}
        assert (out + err).count("\n") == 1 and (out + err).strip().isprintable() and left <= {"net.pth"}
        return SimpleNamespace(code=stop.value.code, text=out + err, path=tmp_path / "new" / "net.pth")
    return get


def test_the_official_places():
    boxes = "fore_det/obj_det_checkpoints"
    base = "https://download.openmmlab.com/mmdetection/v2.0/yolo"
    assert {weights.path: (weights.name, weights.url, weights.sha256[:8]) for weights in WEIGHTS} == {
        "FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar":
            ("flownet2", "https://drive.google.com/uc?id=1hF8vS6YeHkx3j2pfCeQqqZGwA_PJq_Da", ""),
        f"{boxes}/yolov3_d53_mstrain-608_273e_coco-139f5633.pth":
            ("yolov3", f"{base}/yolov3_d53_mstrain-608_273e_coco/yolov3_d53_mstrain-608_273e_coco-139f5633.pth", "139f5633"),
        f"{boxes}/yolov3_d53_320_273e_coco-421362b6.pth":
            ("yolov3", f"{base}/yolov3_d53_320_273e_coco/yolov3_d53_320_273e_coco-421362b6.pth", "421362b6"),
        f"{boxes}/yolox_nano.onnx":
            ("yolox", "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx", "c789161e")}
    assert download_weights.SUITE == SUITE


def test_fetches_once(serve, get):
    url = serve(reply())
    done = get(f"{url}/")
    assert done.code == 0 and done.text.startswith(f"wrote {done.path}: 0.4 MB in ") and done.path.read_bytes() == CONTENT
    assert get(url).text == f"{done.path}: already there and valid\n"


def test_from_its_own_place_and_behind_a_redirect(serve, get):
    target = serve(reply())
    assert get(None, url=serve(reply(b"", 302, Location=f"{target}/elsewhere")) + "/net.pth").code == 0


@pytest.mark.parametrize("answer, words", [
    (reply(b"<html>Please log in</html>"), ["its SHA-256 is ", SHA[:8]]), (reply(b""), ["its SHA-256 is "]),
    (reply(CONTENT + b"x"), ["larger than 384,008 bytes"]), (endless, ["larger than 384,008 bytes"]),
    (reply(CONTENT[:1000], length=len(CONTENT)), ["lost 383,008 bytes before the end"]), (stalled, ["timed out"]),
    (reply(b"sorry", 404), ["404"]), (reply(b"sorry", 503), ["503"]), (reply(b"", 302, Location="/files/net.pth"), ["loop"]),
    (reply(b"", 302, Location="file:///etc/passwd"), ["302"])])
def test_nothing_is_kept_of_what_is_not_the_file(serve, get, answer, words):
    url = serve(answer)
    done = get(url)
    assert done.code == 2 and not done.path.exists()
    assert done.text.startswith(f"error: {done.path}: cannot be fetched from {url}")
    assert all(word in done.text for word in [*words, "run the same command again", "in a browser", "--from"]), done.text
    done.path.write_bytes(b"damaged")  # by hand, and better than nothing
    assert get(url).code == 2 and done.path.read_bytes() == b"damaged"


def test_a_damaged_file_is_replaced(serve, get, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "net.pth").write_bytes(b"damaged")
    assert get(serve(reply())).path.read_bytes() == CONTENT


def test_without_a_published_hash_the_tensors_decide(serve, get):
    done = get(serve(reply(b"tensors of something else")), sha="")
    assert done.code == 2 and "not the weights of Net: a is missing)" in done.text and not done.path.exists()
    assert get(serve(reply()), sha="").code == 0


def test_nobody_there(serve, get):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "refused" in get(f"http://127.0.0.1:{port}").text


def test_from_a_folder(get, tmp_path):
    assert "No such file" in get(tmp_path).text
    (tmp_path / "net.pth").write_bytes(CONTENT[:-1])
    assert "SHA-256" in get(tmp_path).text
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert get(tmp_path).code == 0 and (tmp_path / "net.pth").exists()


@pytest.mark.parametrize("source", ["file:///tmp", "ftp://127.0.0.1/weights", "http://a b:x/", "http://[/"])
def test_from_nowhere(get, source):
    assert get(source).code == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_the_disk_is_full_or_taken(serve, get, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    with monkeypatch.context() as patch, open("/dev/full", "wb", buffering=0) as full:
        patch.setattr(download_weights, "copy", lambda source, file, most: full.write(source.read()))
        assert "No space left on device" in get(serve(reply())).text
    assert not list((tmp_path / "new").glob("net*"))
    with locked(tmp_path / "new"):
        assert "another process" in get(serve(reply())).text


def test_google_drive(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if not installed
    assert "pip install gdown" in get(None, url=DRIVE).text

    def download(url, output):
        if isinstance(content, Exception):
            raise content
        assert url == DRIVE
        output.write(content)

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    content = RuntimeError("Failed to retrieve file url:\n\n\tToo many users")
    assert "Failed to retrieve file url: Too many users" in get(None, url=DRIVE).text
    content = b"<html>Quota exceeded</html>"
    assert "not the weights of Net" in get(None, url=DRIVE, sha="").text
    content = CONTENT
    assert get(None, url=DRIVE).code == 0


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # runpy, as it was imported above
def test_the_script(suite, tmp_path):
    done = suite("tools.download_weights", "--from", tmp_path, "--to", tmp_path / "new", rc=2)
    assert done.stdout == "" and done.stderr.count("\n") == len(WEIGHTS)
    assert all(f"{tmp_path}/{os.path.basename(weights.path)} (" in done.stderr for weights in WEIGHTS)


@pytest.mark.parametrize("weights", WEIGHTS[1:], ids=lambda weights: weights.name)
def test_the_real_checks_refuse_another_network(tmp_path, weights):
    torch = pytest.importorskip("torch")
    path = tmp_path / "other.pth"
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    assert "SHA-256" in problem(weights, path) or not weights.sha256
    assert "other.pth: " in problem(weights._replace(sha256=""), path)
