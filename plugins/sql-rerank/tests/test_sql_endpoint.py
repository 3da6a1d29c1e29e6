"""A service on this machine stands in for a hosted model."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from slt_sql_rerank.candidates.endpoint import Service, SqlEndpoint
from sltcore.errors import DataError, SpecError
from sltcore.types import Text


class Stub(HTTPServer):
    status, answer, heard = 200, b"", ()  # type: ignore[var-annotated]


class Replies(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        stub: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.heard = (*stub.heard, (self.path, self.headers.get("Authorization"), body))
        self.send_response(stub.status)
        if stub.status == 302:
            self.send_header("Location", f"http://127.0.0.1:{stub.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(stub.answer)

    def log_message(self, *given: Any) -> None:
        return


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(("127.0.0.1", 0), Replies) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def decoder(stub: Stub, **options: Any) -> SqlEndpoint:
    service = Service(f"http://127.0.0.1:{stub.server_port}/v1/", "some-model", "SLT_TEST_KEY", 5)
    return SqlEndpoint(service, n=2, allow_network=True, **options)


def reply(*choices: tuple[str, list[float]]) -> bytes:
    found: list[dict[str, Any]] = []
    for text, logs in choices:
        found.append({"message": {"content": text}, "logprobs": {"content": [{"logprob": x} for x in logs]}})
    return json.dumps({"choices": found}).encode()


def test_choices_are_sorted_by_their_log_probabilities(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_TEST_KEY", "secret")
    stub.answer = reply(("SELECT 1", [-1.0, -2.0]), ("```sql\nSELECT 2\n```", [-0.5]))
    found = decoder(stub).decode(Text(["How many?"]), {})[0]
    assert [(one.text, one.score) for one in found] == [("SELECT 2", -0.5), ("SELECT 1", -3.0)]
    path, key, body = stub.heard[0]
    assert (path, key, body["n"], body["model"]) == ("/v1/chat/completions", "Bearer secret", 2, "some-model")
    stub.answer = reply(("SELECT 1", []), ("SELECT 2", []))
    assert [one.score for one in decoder(stub).decode(Text(["How many?"]), {})[0]] == [0.0, -1.0]


@pytest.mark.parametrize("strange", ["NaN", "-Infinity", "1e999"])
def test_log_probabilities_that_are_no_numbers_count_as_not_told(
    stub: Stub, strange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLT_TEST_KEY", "secret")
    stub.answer = reply(("SELECT 1", [-1.0]), ("SELECT 2", [-7.25])).replace(b"-7.25", strange.encode())
    found = decoder(stub).decode(Text(["How many?"]), {})[0]
    assert [(one.text, one.score) for one in found] == [("SELECT 1", 0.0), ("SELECT 2", -1.0)]


def test_a_choice_that_the_service_kept_back_is_left_out(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_TEST_KEY", "secret")
    stub.answer = reply(("SELECT 1", [-1.0]), ("away", [-2.0])).replace(b'"away"', b"null")
    assert [one.text for one in decoder(stub).decode(Text(["How many?"]), {})[0]] == ["SELECT 1"]


@pytest.mark.parametrize(
    ("status", "answer", "problem"),
    [
        (500, b"", "answers with status 500"),
        (302, b"", "answers with status 302"),
        (200, b"<html>", "gave no list of choices"),
        (200, b'{"choices": [{"message": null}]}', "gave no list of choices"),
        (200, b'{"choices": []}', "gave no choice"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "gave no choice"),
        (200, b'{"choices": [{"message": {"content": 5}}]}', "gave no list of choices"),
        (200, b'{"choices": [{"message": {"content": "x"}, "logprobs": [1]}]}', "gave no list of choices"),
        (
            200,
            b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"logprob": 1'
            + b"0" * 400
            + b"}]}}]}",
            "gave",
        ),
        (200, b"\xff{", "gave no list of choices"),
        (200, b"[" * 100_000, "gave no list of choices"),
    ],
)
def test_a_bad_answer_is_told_in_a_line(
    stub: Stub, status: int, answer: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLT_TEST_KEY", "secret")
    stub.status, stub.answer = status, answer
    with pytest.raises(DataError, match=problem) as error:
        decoder(stub).decode(Text(["How many?"]), {})
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert len(stub.heard) == 1


def test_nothing_is_sent_unless_the_spec_allows_it(stub: Stub) -> None:
    with pytest.raises(SpecError, match="set allow_network: true to allow that"):
        SqlEndpoint(Service("http://127.0.0.1:1", "m"))
    with pytest.raises(DataError, match="environment variable SLT_TEST_KEY holds no key"):
        decoder(stub).decode(Text(["How many?"]), {})
    assert not stub.heard


def test_a_service_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="does not answer: URLError"):
        SqlEndpoint(Service("http://127.0.0.1:1", "m", seconds=1), allow_network=True).decode(Text(["?"]), {})


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "piece"),
    [(b"", b""), (b"", b"H"), (HEAD, b""), (HEAD, b" "), (HEAD[:-2] + b"Content-Length: 9\r\n\r\n", b"")],
    ids=["silent", "headers trickle", "no body", "body trickles", "body shorter than told"],
)
def test_a_service_that_hangs_is_left_in_time(first: bytes, piece: bytes) -> None:
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(first)
            while not stop.wait(0.05):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        service = Service(f"http://127.0.0.1:{port}", "some-model", seconds=0.6)
        begin = time.monotonic()
        try:
            with pytest.raises(
                DataError, match=rf"^sql-endpoint: http://127.0.0.1:{port}/\S+ has not answered within 0.6 s$"
            ):
                SqlEndpoint(service, allow_network=True).decode(Text(["How many?"]), {})
            assert time.monotonic() - begin < 5
            while any(one.name == "sql-endpoint" for one in threading.enumerate()):
                time.sleep(0.02)
                assert time.monotonic() - begin < 10  # its thread ends, though the service goes on
        finally:
            stop.set()
            thread.join()


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    monkeypatch.setenv("SLT_TEST_KEY", "secret")
    monkeypatch.setattr("slt_sql_rerank.candidates.endpoint.MOST_BYTES", 1000)
    stub.answer = b" " * 5000
    with pytest.raises(DataError, match=r"answers with more than"):
        decoder(stub).decode(Text(["How many?"]), {})
