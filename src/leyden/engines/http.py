"""Questions to servers: several addresses, retries with growing pauses, and a deadline."""

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx2 as httpx

TRIES, FIRST_TRIES = 12, 3  # of a row: about three minutes; of a first look
PAUSES = (0.5, 30.0)  # seconds between tries: the first, and the longest
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be another one the next time
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 30.0  # for what a server says of itself
MOST_BYTES = 2**28  # of an answer
Json = dict[str, Any]
R = TypeVar("R")


class NoAnswer(Exception):
    """A question was given up; the message is a clause that says why. ``refused`` is the status of
    a server that will not answer it, whoever asks."""

    def __init__(self, why: str, refused: int | None = None) -> None:
        super().__init__(why)
        self.refused = refused


class Servers:
    """Servers of one model. Threads may ask at once; each question goes to the next address.

    Proxies of the environment are not used: an inference server is on a network of one's own.
    """

    def __init__(
        self, urls: Sequence[str], seconds: float, in_flight: int, key_variable: str | None
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self.seconds, self._turn = seconds, 0
        headers = {}
        if key_variable and (key := os.environ.get(key_variable)):
            headers["Authorization"] = f"Bearer {key}"
        most = in_flight * len(urls)
        self._client = httpx.Client(
            headers=headers,
            trust_env=False,
            limits=httpx.Limits(max_connections=most + 8, max_keepalive_connections=most),
        )

    def get(self, url: str, path: str) -> Json:
        """Ask one server about itself. Raises NoAnswer."""
        return self._ask(lambda: url, "GET", path, None, LOOK_SECONDS, FIRST_TRIES)

    def post(self, path: str, question: Mapping[str, Any]) -> Json:
        """The answer of one of the servers. Raises NoAnswer."""
        return self._ask(self._next, "POST", path, question, self.seconds, TRIES)

    def post_to(self, url: str, path: str, question: Mapping[str, Any]) -> Json:
        """The answer of this server. Raises NoAnswer."""
        return self._ask(lambda: url, "POST", path, question, self.seconds, FIRST_TRIES)

    def drop(self, url: str) -> None:
        """Ask this server no more."""
        self.urls.remove(url)

    def _next(self) -> str:
        self._turn += 1  # a number that two threads see is no harm
        return self.urls[self._turn % len(self.urls)]

    def _ask(
        self,
        place_of: Callable[[], str],
        method: str,
        path: str,
        question: Mapping[str, Any] | None,
        seconds: float,
        tries: int,
    ) -> Json:
        why, pause = "", PAUSES[0]
        for attempt in range(tries):
            if attempt:
                time.sleep(pause * random.uniform(0.75, 1.25))  # not all threads at one moment
                pause = min(2 * pause, PAUSES[1])
            place = place_of()
            try:
                status, content = self._once(method, place + path, question, seconds)
            except httpx.HTTPError as error:
                why = f"{place}: {type(error).__name__}: {error}"
                continue
            if status == 200:
                return _object(content, place)
            why = f"{place}: status {status}: {content[:300].decode(errors='replace')}"
            if status not in AGAIN:
                raise NoAnswer(why, refused=status)
        raise NoAnswer(f"{why} (after {tries} tries)")

    def _once(
        self, method: str, url: str, question: Mapping[str, Any] | None, seconds: float
    ) -> tuple[int, bytes]:
        """(status, body). Raises HTTPError, also where the whole answer takes too long."""
        until, parts, size = time.monotonic() + seconds, list[bytes](), 0
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        with self._client.stream(method, url, json=question, timeout=timeout) as reply:
            for part in reply.iter_bytes():
                parts.append(part)
                size += len(part)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout(f"no whole answer within {seconds:.0f} s")
                if size > MOST_BYTES:
                    raise httpx.ReadError(f"its answer has over {MOST_BYTES:,} bytes")
        return reply.status_code, b"".join(parts)

    def close(self) -> None:
        self._client.close()


def _object(content: bytes, place: str) -> Json:
    try:
        value = httpx.Response(200, content=content).json()
    except (ValueError, RecursionError) as error:
        raise NoAnswer(f"{place}: its answer is no JSON: {content[:100]!r}") from error
    if not isinstance(value, dict):
        raise NoAnswer(f"{place}: its answer is no JSON object")
    return value


class Threads:
    """Threads that nobody waits for: an error, or Ctrl-C, does not wait for answers that hang."""

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
        """Have the function called by a free thread."""
        future: Future[R] = Future()

        def call() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._work.put(call)
        return future

    def close(self) -> None:
        """Let the threads end when they have done what they do."""
        for _ in range(self._count):
            self._work.put(None)

    def _run(self) -> None:
        while (call := self._work.get()) is not None:
            call()
