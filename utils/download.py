"""Fetching a file over HTTP, resuming what broke off."""

import http.client
import re
import sys
import time
import urllib.error
from urllib import request

from tqdm import tqdm

from utils.errors import UserError

TIMEOUT = 30       # seconds without a byte after which a connection counts as broken
WAITS = (1, 3, 9)  # seconds before the next try, while tries bring nothing new
NETWORK_ERRORS = (OSError, http.client.HTTPException)


class Broken(Exception):
    """A connection failed or ended too early: another try may go on."""


def download(url, part):
    """Fetches a URL behind what is in `part` already; returns whether the file was joined from several responses.

    Raises UserError if the server has no such file, or connections fail again and again; OSError is of the disk alone.
    """
    have = longest = size(part)
    tries = 0  # since something new came
    version = None, None  # length and ETag, as far as known, of the file that `part` is the beginning of
    while True:
        try:
            response = connect(url, have)
            if response is None:  # nothing lies beyond what is here: it is whole, or of another file
                return True
            with response:
                span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
                total = int(span[2]) if span else response.length
                now = total, response.headers.get("ETag")
                if response.status != 206:
                    have = 0
                elif not span or int(span[1]) != have or any(a and b and a != b for a, b in zip(version, now)):
                    part.unlink(missing_ok=True)
                    raise Broken("the file on the server has changed")
                version = now
                save(response, part, have, total)
            if total in (None, size(part)):
                return have > 0
            raise Broken(f"the connection broke off at {size(part):,} of {total:,} bytes")
        except Broken as error:
            have = size(part)
            longest, tries = max(longest, have), 1 if have > longest else tries + 1
            if tries > len(WAITS):
                raise UserError(f"{url}: {error}, {tries} times in a row; run this again later to go on") from None
            time.sleep(WAITS[tries - 1])


def size(part):
    return part.stat().st_size if part.is_file() else 0


def connect(url, have):
    """The response to a request for the bytes from `have` on; None if there are none. Raises Broken or UserError."""
    opener = request.OpenerDirector()  # the usual one would also open file:, ftp: and data:, for instance redirected
    for handler in (request.ProxyHandler, request.UnknownHandler, request.HTTPHandler, request.HTTPSHandler,
                    request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler):
        opener.add_handler(handler())
    headers = {"User-Agent": "download_weights", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        reply = f"the server answers {error.code} {one_line(error.reason)}"
        if error.code in (408, 429) or error.code >= 500:
            raise Broken(reply) from None
        raise UserError(f"{url}: {reply}; name another place that has the file with --from") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise UserError(f"{url}: no URL to fetch from ({one_line(error)})") from None
    except NETWORK_ERRORS as error:
        raise Broken(f"no connection ({one_line(getattr(error, 'reason', error))})") from None


def save(response, part, have, total):
    """Writes a response behind the first `have` bytes of `part`. Raises Broken (the network) or OSError (the disk)."""
    terminal = sys.stderr.isatty()
    with open(part, "ab" if have else "wb") as file, tqdm(
            desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, leave=False, file=sys.stderr,
            dynamic_ncols=terminal, mininterval=0.2 if terminal else 30) as bar:
        while True:
            try:
                block = response.read(1 << 16)
            except NETWORK_ERRORS as error:
                raise Broken(f"the connection broke off ({one_line(error)})") from None
            if not block:
                return
            file.write(block)
            bar.update(len(block))


def one_line(error):
    """An error's text in one line, without control characters that a server may have put there."""
    return " ".join(re.sub(r"[^ -~]+", " ", str(error)).split())[:200] or type(error).__name__
