"""Fetching weights from servers that break off, lie, redirect and refuse; all on this machine, and without torch.

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
from tools.download_weights import WEIGHTS, Weights, fetch, main, verify
from utils import download
from utils.errors import UserError
from utils.locks import locked

CONTENT = b"weights:" + bytes(range(256)) * 1500  # more than one block
HALF = len(CONTENT) // 2
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


def check(path):
    """Stands in for a network's loader, and words its refusal like one."""
    if not path.read_bytes().startswith(b"weights:"):
        raise UserError(f"{path}: not the weights of Net: a is missing; mend it with: python -m tools.any")


# What a server may answer: functions of the request's handler.

def reply(handler, content, status=200, length=None, **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": len(content) if length is None else length, **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def whole(content=CONTENT, **options):
    """Knows no Range."""
    return lambda handler: reply(handler, content, **options)


def ranged(content=CONTENT, **headers):
    """Knows Range."""
    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(content):
            reply(handler, b"", 416, Content_Range=f"bytes */{len(content)}")
        elif start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            reply(handler, content[start:], 206, Content_Range=span, **headers)
        else:
            reply(handler, content, **headers)
    return answer


def cut(size=HALF, content=CONTENT, **headers):
    """Breaks off after `size` bytes."""
    return whole(content[:size], length=len(content), **headers)


def cut_chunks(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n" % (HALF, CONTENT[:HALF]))


def stalled(handler):
    cut()(handler)
    time.sleep(2)


def status(code):
    return whole(b"sorry", status=code)


def redirect(location):
    return whole(b"", status=302, Location=location)


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client that has gone


@pytest.fixture
def serve(monkeypatch):
    """serve(answer, ...) -> a server with .url and .requests; the last answer is given to all further requests."""
    monkeypatch.setattr(download, "WAITS", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def serve(*answers):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.close_connection = True
                requests.append(SimpleNamespace(path=self.path, range=self.headers.get("Range")))
                answers[min(len(requests), len(answers)) - 1](self)

            def log_message(self, *_):
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/files", requests=requests)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights" / NAME


def part_of(path):
    return path.with_name(path.name + ".part")


def leave(path, content):
    """An earlier run broke off after `content`."""
    path.parent.mkdir()
    part_of(path).write_bytes(content)


def net(server, name=NAME):
    return Weights("net", f"{server.url}/{name}", f"somewhere/{name}", check)


def get(server, path):
    line = fetch(net(server, path.name), path)
    assert path.read_bytes() == CONTENT and not part_of(path).exists()
    assert "\n" not in line and str(path) in line
    return line


def refusal(server, path, *words):
    """The one line with which fetching fails; nothing has appeared."""
    with pytest.raises(UserError) as error:
        fetch(net(server, path.name), path)
    message = str(error.value)
    assert message.isprintable() and all(word in message for word in (path.name, *words)), message
    assert not path.exists()
    return message


def ranges(server):
    return [request.range for request in server.requests]


def test_the_official_places():
    folder = "fore_det/obj_det_checkpoints"
    base = "https://download.openmmlab.com/mmdetection/v2.0/yolo"
    assert {weights.path: (weights.name, weights.url) for weights in WEIGHTS} == {
        "FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar":
            ("flownet2", "https://drive.google.com/uc?id=1hF8vS6YeHkx3j2pfCeQqqZGwA_PJq_Da"),
        f"{folder}/yolov3_d53_mstrain-608_273e_coco-139f5633.pth":
            ("yolov3", f"{base}/yolov3_d53_mstrain-608_273e_coco/yolov3_d53_mstrain-608_273e_coco-139f5633.pth"),
        f"{folder}/yolov3_d53_320_273e_coco-421362b6.pth":
            ("yolov3", f"{base}/yolov3_d53_320_273e_coco/yolov3_d53_320_273e_coco-421362b6.pth")}
    assert download_weights.SUITE == SUITE


def test_fetches_once(serve, path):
    server = serve(whole())
    assert get(server, path).startswith("wrote ")
    assert "already there and valid" in get(server, path)
    assert ranges(server) == [None]


def test_a_damaged_file_is_replaced(serve, path):
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    assert "in place of a file that was not valid" in get(serve(whole()), path)


def test_a_damaged_file_stays_while_there_is_no_better_one(serve, path):
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    with pytest.raises(UserError):
        fetch(net(serve(status(404))), path)
    assert path.read_bytes() == b"damaged"


# Connections that break, and going on

@pytest.mark.parametrize("version", [{}, {"ETag": '"1"'}])
def test_goes_on_where_it_broke_off(serve, path, version):
    server = serve(cut(1000, **version), status(503), ranged(**version))
    get(server, path)
    assert ranges(server) == [None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("broken", [stalled, cut_chunks])
def test_goes_on_after_silence_or_half_a_chunk(serve, path, monkeypatch, broken):
    monkeypatch.setattr(download, "TIMEOUT", 1 if broken is stalled else 30)
    server = serve(broken, ranged())
    get(server, path)
    assert ranges(server)[0] is None and 0 < int(ranges(server)[-1][6:-1]) <= HALF


def test_goes_on_where_an_earlier_run_stopped(serve, path):
    leave(path, CONTENT[:HALF])
    server = serve(ranged())
    get(server, path)
    assert ranges(server) == [f"bytes={HALF}-"]


def test_an_earlier_run_had_it_all(serve, path):
    leave(path, CONTENT)
    server = serve(ranged())
    get(server, path)
    assert ranges(server) == [f"bytes={len(CONTENT)}-"]


def test_starts_again_where_the_server_knows_no_range(serve, path):
    server = serve(cut(), whole())
    get(server, path)
    assert ranges(server) == [None, f"bytes={HALF}-"]


def test_as_many_tries_as_bring_something(serve, path):
    server = serve(*[lambda handler, n=n: reply(
        handler, CONTENT[n * 1000:n * 1000 + 1000], 206 if n else 200, len(CONTENT) - n * 1000,
        Content_Range=f"bytes {n * 1000}-{len(CONTENT) - 1}/{len(CONTENT)}") for n in range(6)], ranged())
    get(server, path)
    assert len(server.requests) == 7


def test_gives_up_and_keeps_what_it_has(serve, path):
    server = serve(cut())
    refusal(server, path, server.url, f"broke off at {HALF:,} of {len(CONTENT):,} bytes, 4 times", "again later")
    assert part_of(path).read_bytes() == CONTENT[:HALF] and len(server.requests) == 4


def test_nobody_there(serve, path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve(whole())  # for short waits
    refusal(SimpleNamespace(url=f"http://127.0.0.1:{port}"), path, "no connection", "refused", "4 times in a row")


# Another file on the server than a moment ago

OTHER = CONTENT.replace(b"weights", b"version") + b"longer"


@pytest.mark.parametrize("old, new", [({}, {}), ({"ETag": '"1"'}, {"ETag": '"2"'})])
def test_starts_again_when_length_or_etag_change(serve, path, old, new):
    other = OTHER if not old else OTHER[:len(CONTENT)]
    server = serve(cut(HALF, other, **old), ranged(**new))
    get(server, path)
    assert ranges(server) == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("left", [OTHER[:HALF], OTHER])
def test_starts_again_once_when_the_pieces_do_not_fit(serve, path, left):
    leave(path, left)
    server = serve(ranged())
    get(server, path)
    assert ranges(server) == [f"bytes={len(left)}-", None]


def test_starts_again_only_once(serve, path):
    leave(path, b"weights:")
    server = serve(ranged(OTHER))
    refusal(server, path, "SHA-256")
    assert ranges(server) == ["bytes=8-", None] and not part_of(path).exists()


def test_the_wrong_piece(serve, path):
    wrong = whole(CONTENT[:100], status=206, Content_Range=f"bytes 0-99/{len(CONTENT)}")
    server = serve(cut(), wrong, ranged())
    get(server, path)
    assert ranges(server) == [None, f"bytes={HALF}-", None]


def test_without_a_hash_only_one_run_is_trusted(serve, path):
    path = path.with_name("net.pth.tar")
    leave(path, OTHER[:HALF])
    server = serve(cut(), ranged())
    get(server, path)
    assert ranges(server) == [None, f"bytes={HALF}-"]


# Servers that lie or refuse

@pytest.mark.parametrize("answer", [
    whole(b"<html>Please log in</html>"), whole(b""), whole(CONTENT, length=1000), whole(b"", status=204)])
def test_wrong_content(serve, path, answer):
    server = serve(answer)
    refusal(server, path, server.url, "SHA-256 starts with", NAME[4:12], "--from")
    assert len(server.requests) == 1 and not part_of(path).exists()


def test_more_announced_than_there_is(serve, path):
    server = serve(whole(length=len(CONTENT) + 1))
    refusal(server, path, "broke off")
    assert len(server.requests) == 4


def test_right_hash_wrong_tensors(serve, path):
    wrong = b"tensors of something else"
    path = path.with_name(f"net-{hashlib.sha256(wrong).hexdigest()[:8]}.pth")
    message = refusal(serve(whole(wrong)), path, "not the weights of Net: a is missing")
    assert "mend it" not in message and not part_of(path).exists()


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refused(serve, path, code):
    server = serve(status(code))
    refusal(server, path, server.url, f"answers {code}", "--from")
    assert len(server.requests) == 1 and not part_of(path).exists()


@pytest.mark.parametrize("code", [429, 500, 503])
def test_out_of_order(serve, path, code):
    server = serve(status(code))
    refusal(server, path, f"answers {code}", "4 times in a row")
    assert len(server.requests) == 4


def test_follows_a_redirect_and_goes_on_behind_it(serve, path):
    target = serve(cut(), ranged())
    get(serve(redirect(f"{target.url}/elsewhere")), path)
    assert ranges(target) == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_redirects_to_the_web_alone(serve, path, tmp_path, scheme):
    (tmp_path / "secret").write_bytes(CONTENT)
    refusal(serve(redirect(f"{scheme}://{tmp_path}/secret")), path, scheme)
    assert not part_of(path).exists()


def test_redirect_in_a_circle(serve, path):
    refusal(serve(redirect("/files/round")), path, "infinite loop")


# The disk

@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_disk_full(serve, path):
    path.parent.mkdir()
    part_of(path).symlink_to("/dev/full")
    refusal(serve(whole()), path, "No space left on device", "make room")


def test_no_place_for_the_folder(serve, path):
    path.parent.write_bytes(b"a file")
    server = serve(whole())
    with pytest.raises(UserError, match=f"^{path.parent}: cannot be written"):
        fetch(net(server), path)
    assert not server.requests


def test_the_name_is_taken_by_a_folder(serve, path):
    path.mkdir(parents=True)
    with pytest.raises(UserError, match=f"^{path}: cannot be written"):
        fetch(net(serve(whole())), path)


def test_one_process_at_a_time(serve, path):
    with locked(path.parent), pytest.raises(UserError, match="another process"):
        fetch(net(serve(whole())), path)


# From elsewhere, and the command line

@pytest.fixture
def table():
    gone = Weights("flow", "https://drive.google.com/uc?id=1", "flow/net.pth.tar", check)
    return [gone, Weights("boxes", "http://127.0.0.1:1/never", f"boxes/{NAME}", check)]


def command(*words, table):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words], table)
    return stop.value.code


def test_from_a_folder_to_a_folder(tmp_path, table, capsys):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / NAME).write_bytes(CONTENT)
    assert command("--from", source, "--to", target, table=table) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"wrote {target / NAME}: 0.4 MB in ") and out.count("\n") == 1
    assert err.count("\n") == 1 and f"{source}/net.pth.tar: no such file" in err
    assert (target / NAME).read_bytes() == CONTENT
    assert command("boxes", "--from", source, "--to", target, table=table) == 0
    assert capsys.readouterr() == (f"{target / NAME}: already there and valid\n", "")


def test_from_a_damaged_copy(tmp_path, table, capsys):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert command("boxes", "--from", tmp_path, "--to", tmp_path / "target", table=table) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert (tmp_path / NAME).exists() and [each.name for each in (tmp_path / "target").iterdir()] == [".lock"]


def test_from_a_url(serve, tmp_path, table, capsys):
    server = serve(whole())
    assert command("--from", f"{server.url}/", "--to", tmp_path, table=table) == 0
    assert [request.path for request in server.requests] == ["/files/net.pth.tar", f"/files/{NAME}"]
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize("source", ["file:///tmp", "ftp://127.0.0.1/weights", "nowhere", "http://a b:x/", "http://[/"])
def test_from_nowhere(tmp_path, table, capsys, monkeypatch, source):
    monkeypatch.setattr(download, "WAITS", ())
    assert command("boxes", "--from", source, "--to", tmp_path, table=table) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and source in err


def test_without_gdown(tmp_path, table, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if not installed
    assert command("flow", "--to", tmp_path, table=table) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install gdown" in err and table[0].url in err
    assert f"{tmp_path}/net.pth.tar: " in err


def test_with_gdown(tmp_path, table, capsys, monkeypatch):
    def download(url, output, resume):
        assert url == table[0].url and resume
        with open(output, "wb") as file:
            file.write(content)

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    content = b"<html>Quota exceeded</html>"
    assert command("flow", "--to", tmp_path, table=table) == 2
    assert "not the published weights" in capsys.readouterr().err
    content = CONTENT
    assert command("flow", "--to", tmp_path, table=table) == 0
    assert (tmp_path / "net.pth.tar").read_bytes() == CONTENT and not (tmp_path / "net.pth.tar.part").exists()


def test_gdown_fails(tmp_path, table, capsys, monkeypatch):
    def download(*_, **__):
        raise RuntimeError("Failed to retrieve file url:\n\n\tToo many users")

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    assert command("flow", "--to", tmp_path, table=table) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Failed to retrieve file url: Too many users" in err and "in a browser" in err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # runpy, as it was imported above
def test_the_script(suite, tmp_path):
    done = suite("tools.download_weights", "--from", tmp_path, "--to", tmp_path / "new", rc=2)
    assert done.stdout == "" and done.stderr.count("\n") == len(WEIGHTS)
    assert all(f"{tmp_path}/{os.path.basename(weights.path)}: no such file" in done.stderr for weights in WEIGHTS)


# With the real loaders: this imports torch

@pytest.mark.parametrize("weights", WEIGHTS[1:], ids=lambda weights: weights.name)
def test_the_real_checks_refuse_another_network(tmp_path, weights):
    torch = pytest.importorskip("torch")
    path = tmp_path / "other.pth"
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    with pytest.raises(UserError, match=f"tools.download_weights {weights.name}"):
        verify(weights, path)
