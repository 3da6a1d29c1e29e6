"""Decoder `sql-endpoint`: an OpenAI-compatible chat service writes candidates, where a spec allows the network."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from slt_sql_rerank import databases
from slt_sql_rerank.candidates.distinct import distinct
from slt_sql_rerank.candidates.generate import PROMPT, checked
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.simple.llm_judge import describe
from sltcore.errors import DataError, SpecError
from sltcore.interfaces import Decoder
from sltcore.types import ContextKey, Hypothesis, NBest, Port, Text

MOST_BYTES = 16 * 2**20


class Service(NamedTuple):
    """Where it is, which model, and the environment variable that holds the key (empty: no key is sent)."""

    base_url: str
    model: str
    key_variable: str = ""
    seconds: float = 60.0


class SqlEndpoint(Decoder):
    """`n` choices of POST base_url/chat/completions for each question; question and schema leave this machine, no rows do.

    The score is the sum of the tokens' log-probabilities where the service gives them for every choice, else 0, -1, -2 by
    place. Redirects are refused, since they would carry the key elsewhere.

    **Source**: own, of the chat completions interface as the OpenAI API reference describes it.
    """

    def __init__(
        self, service: Service, *, n: int = 10, temperature: float = 1.0, prompt: str = "", allow_network: bool = False
    ) -> None:
        """**Raises** `SpecError` where the network is not allowed."""
        if not allow_network:
            raise SpecError(
                f"sql-endpoint: it would send questions and schemas to {service.base_url}; set allow_network: true to allow that"
            )
        if not service.base_url.startswith(("http://", "https://")):
            raise SpecError(f"sql-endpoint: base_url is {service.base_url!r}; expected http:// or https://")
        self.service, self.n, self.temperature = service, n, temperature
        self.prompt = checked(prompt or PROMPT)

    @property
    def consumes(self) -> Port:
        """Questions."""
        return Port("Text")

    @property
    def produces(self) -> Port:
        """Candidates."""
        return Port("Hypotheses")

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`; only its schema is read."""
        return (DATABASE,)

    def decode(self, encoded: Text, context: Mapping[str, Any]) -> list[NBest]:
        """One list for each question. **Raises** `DataError` for a service that does not answer, or answers otherwise."""
        places = databases.given(context, len(encoded.texts))
        return [
            self._ask(self.prompt.format(schema=describe(schema_of(place)), question=question))
            for question, place in zip(encoded.texts, places, strict=True)
        ]

    def _ask(self, prompt: str) -> NBest:
        message = {"role": "user", "content": f"{prompt}\nReply with one SQL query and nothing else."}
        asked = {"model": self.service.model, "messages": [message], "n": self.n}
        answer = self._post({**asked, "temperature": self.temperature, "logprobs": True})
        try:
            found = list(_choices(json.loads(answer)["choices"]))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"sql-endpoint: {self.service.base_url} gave no list of choices ({error!r:.100})") from None
        if not found:
            raise DataError(f"sql-endpoint: {self.service.base_url} gave no choice")
        told = all(score is not None for _, score in found)
        return distinct(
            Hypothesis(text, float(score) if told and score is not None else 0.0 - place)
            for place, (text, score) in enumerate(found)
        )

    def _post(self, body: Mapping[str, Any]) -> bytes:
        url = f"{self.service.base_url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self.service.key_variable:
            key = os.environ.get(self.service.key_variable)
            if not key:
                raise DataError(f"sql-endpoint: the environment variable {self.service.key_variable} holds no key")
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            answer = _within(self.service.seconds, request)
        except urllib.error.HTTPError as error:
            raise DataError(f"sql-endpoint: {url} answers with status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
                why = f"has not answered within {self.service.seconds:g} s"
                raise DataError(f"sql-endpoint: {url} {why}") from None
            raise DataError(f"sql-endpoint: {url} does not answer: {type(error).__name__}") from None
        if len(answer) > MOST_BYTES:
            raise DataError(f"sql-endpoint: {url} answers with more than {MOST_BYTES >> 20} MB")
        return answer


def _within(seconds: float, request: urllib.request.Request) -> bytes:
    """The answer, at most a byte too long. **Raises** `TimeoutError` where it is not whole in time, however it trickles in."""
    end = time.monotonic() + seconds
    found: Future[bytes] = Future()
    opened: list[HTTPConnection] = []

    def ask() -> None:
        try:
            with urllib.request.build_opener(_Stay, _Plain(opened), _Secure(opened)).open(
                request, timeout=seconds
            ) as reply:
                parts = bytearray()
                while len(parts) <= MOST_BYTES and (part := reply.read1(MOST_BYTES + 1 - len(parts))):
                    parts += part
                    if time.monotonic() > end:
                        raise TimeoutError
            found.set_result(bytes(parts))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=ask, name="sql-endpoint", daemon=True).start()
    try:
        return found.result(seconds)
    finally:
        for connection in opened:  # so that the thread ends too, where headers still come byte by byte
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)


class _Told(urllib.request.AbstractHTTPHandler):
    """Tells which connections it opens."""

    def __init__(self, opened: list[HTTPConnection]) -> None:
        super().__init__()
        self.opened = opened

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        def made(*given: Any, **named: Any) -> HTTPConnection:
            self.opened.append(http_class(*given, **named))
            return self.opened[-1]

        return super().do_open(made, req, **options)  # type: ignore[arg-type]


class _Plain(_Told, urllib.request.HTTPHandler):
    pass


class _Secure(_Told, urllib.request.HTTPSHandler):
    pass


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> None:
        return None


def _choices(choices: Any) -> Iterator[tuple[str, float | None]]:
    for choice in choices:
        if (text := choice["message"]["content"]) is None:
            continue  # the service kept this one back
        text = text.strip()
        if text.startswith("```"):
            text = text.strip("`").removeprefix("sqlite").removeprefix("sql").strip()
        tokens = (choice.get("logprobs") or {}).get("content")
        score = sum(float(token["logprob"]) for token in tokens) if tokens else math.nan
        yield text, score if math.isfinite(score) else None
