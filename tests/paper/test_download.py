"""Downloads from a server on this machine: whole, broken off, resumed, wrong, refused."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from solset.paper import DownloadError, PublicFile, fetch

CONTENT = bytes(range(256)) * 2000  # several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and the ranges that it was asked for."""

    content: bytes = CONTENT
    serves_ranges: bool = True
    stops_after: list[int] = field(default_factory=list)  # bytes of each answer in turn; then all of it
    wrong_range: bool = False
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.serves_ranges else 0
        if request.path != "/file":
            return request.send_error(404)
        if start and start >= len(self.content):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        if start:
            first = start + 1 if self.wrong_range else start
            request.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        stop = start + self.stops_after.pop(0) if self.stops_after else None
        request.wfile.write(self.content[start:stop])
        return None


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_address[1]}/file"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "file.bin"


@pytest.fixture
def part(target):
    return target.with_name("file.bin.part")


def leave(part, content: bytes) -> None:
    """A partial file of an earlier call."""
    part.parent.mkdir()
    part.write_bytes(content)


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_is_whole_and_in_place(server, target, part, digits):
    assert fetch(server.url, target, sha256=SHA256[:digits]) == target
    assert target.read_bytes() == CONTENT
    assert not part.exists()
    assert server.asked == [None]


def test_a_file_in_place_is_not_asked_for_again(server, target):
    fetch(server.url, target, sha256=SHA256)
    fetch(server.url, target, sha256=SHA256)
    assert len(server.asked) == 1


def test_a_wrong_file_in_place_is_left_alone(server, target):
    target.parent.mkdir()
    target.write_text("mine")
    with pytest.raises(DownloadError, match=r"file\.bin is there with another sha256 .*move it away"):
        fetch(server.url, target, sha256=SHA256)
    assert target.read_text() == "mine"
    assert not server.asked


def test_an_interrupted_download_is_taken_up_where_it_stopped(server, target):
    server.stops_after = [70_000, 5]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=70000-", "bytes=70005-"]


def test_what_came_is_kept_for_the_next_call(server, target, part):
    server.stops_after = [70_000]
    with pytest.raises(DownloadError, match=r"stopped after 70000 of 512000 bytes \(70000 bytes are kept in"):
        fetch(server.url, target, sha256=SHA256, attempts=1)
    assert part.read_bytes() == CONTENT[:70_000]
    assert not target.exists()
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=70000-"]


def test_attempts_end_where_none_brings_a_byte(server, target):
    server.stops_after = [10, 0, 0, 0]
    with pytest.raises(DownloadError, match="stopped after 10 of"):
        fetch(server.url, target, sha256=SHA256)
    assert len(server.asked) == 2


def test_a_server_without_ranges_starts_again(server, target, part):
    leave(part, b"x" * 1000)
    server.serves_ranges = False
    server.stops_after = [60_000]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", "bytes=60000-"]


def test_a_partial_file_that_is_whole_needs_no_server(server, target, part):
    leave(part, CONTENT)
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert not server.asked


def test_a_partial_file_that_is_too_long_is_begun_again(server, target, part):
    leave(part, b"x" * len(CONTENT))
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-", None]


def test_wrong_content_is_removed_and_said_so(server, target, part):
    server.content = b"please log in"
    wrong = hashlib.sha256(server.content).hexdigest()[:16]
    with pytest.raises(
        DownloadError, match=rf"sent 13 bytes with sha256 {wrong}\.\.\. where {SHA256} was exp"
    ):
        fetch(server.url, target, sha256=SHA256)
    assert not target.exists()
    assert not part.exists()


def test_a_resumed_file_that_was_another_is_removed_and_the_next_call_succeeds(server, target, part):
    leave(part, b"x" * 1000)
    with pytest.raises(DownloadError, match="they are removed, try again"):
        fetch(server.url, target, sha256=SHA256)
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_another_range_than_the_one_asked_for_is_not_appended(server, target, part):
    leave(part, CONTENT[:1000])
    server.wrong_range = True
    with pytest.raises(DownloadError, match="asked for the bytes from 1000, the server sent 'bytes 1001-"):
        fetch(server.url, target, sha256=SHA256)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_missing_page_is_one_line(server, target):
    with pytest.raises(DownloadError, match=r"/other: HTTP Error 404: Not Found$"):
        fetch(server.url.replace("file", "other"), target, sha256=SHA256)


def test_a_silent_server_ends_after_the_timeout(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DownloadError, match="timed out"):
            fetch(url, target, sha256=SHA256, timeout=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "file:///etc/hosts"}, "`url` must be http:// or https://; got 'file:///etc/hosts'"),
        ({"sha256": "abc"}, "`sha256` must be 8 to 64 lower-case hexadecimal digits; got 'abc'"),
        ({"attempts": 0}, "`attempts` must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_fetched_is_refused_at_the_door(target, change, message):
    arguments = {"url": "http://127.0.0.1/", "sha256": SHA256} | change
    with pytest.raises(ValueError, match=message):
        fetch(arguments.pop("url"), target, **arguments)
    assert not target.parent.exists()


def test_what_is_nowhere_is_downloaded_once_into_the_cache(server, home):
    source = PublicFile(name="public.bin", url=server.url, sha256=SHA256, option="`--data PATH`")
    for _ in range(2):
        assert source.find() == home / "home" / "public.bin"
    assert len(server.asked) == 1


def test_a_failed_download_names_both_cures_and_its_reason(server, home):
    url = server.url.replace("file", "other")
    source = PublicFile(name="public.bin", url=url, sha256=SHA256, option="`--data PATH` with the file")
    with pytest.raises(FileNotFoundError) as caught:
        source.find()
    message = str(caught.value)
    assert "Either give `--data PATH` with the file " in message
    assert f"(public copy: {source.url}), or leave it out, to download to {home / 'home'}" in message
    assert message.endswith("HTTP Error 404: Not Found)")
    assert "\n" not in message
