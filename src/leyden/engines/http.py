"""Questions to servers: several addresses, retries with growing pauses, and a deadline."""

import os
import random
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import httpx2 as httpx

TRIES = 6
PAUSES = (0.5, 30.0)  # seconds between tries: the first, and the longest
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be another one the next time
CONNECT_SECONDS = 10.0
Json = dict[str, Any]


class NoAnswer(Exception):
    """A question was given up; the message is a clause that says why. ``refused`` is the status of
    a server that will not answer it, whoever asks."""

    def __init__(self, why: str, refused: int | None = None) -> None:
        super().__init__(why)
        self.refused = refused


class Servers:
    """Servers of one model. Threads may ask at once; each question goes to the next address."""

    def __init__(
        self, urls: Sequence[str], seconds: float, in_flight: int, key_variable: str | None
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self._turn = cycle(self.urls)
        headers = {}
        if key_variable and (key := os.environ.get(key_variable)):
            headers["Authorization"] = f"Bearer {key}"
        most = in_flight * len(urls)
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
        )
        self.broken = 0
        """Connections that broke so far: the server behind may have been started anew."""

    def get(self, url: str, path: str) -> Json:
        """What one server says of itself. Raises NoAnswer."""
        return self._ask(url, "GET", path, None)

    def post(self, path: str, question: Mapping[str, Any]) -> Json:
        """The answer of one of the servers. Raises NoAnswer."""
        return self._ask(None, "POST", path, question)

    def post_to(self, url: str, path: str, question: Mapping[str, Any]) -> Json:
        """The answer of this server. Raises NoAnswer."""
        return self._ask(url, "POST", path, question)

    def _ask(
        self, url: str | None, method: str, path: str, question: Mapping[str, Any] | None
    ) -> Json:
        why, pause = "", PAUSES[0]
        for attempt in range(TRIES):
            if attempt:
                time.sleep(pause * random.uniform(0.75, 1.25))  # not all threads at one moment
                pause = min(2 * pause, PAUSES[1])
            place = url or next(self._turn)
            try:
                reply = self._client.request(method, place + path, json=question)
            except httpx.HTTPError as error:
                self.broken += not isinstance(error, httpx.TimeoutException)
                why = f"{place}: {type(error).__name__}: {error}"
                continue
            if reply.status_code in AGAIN:
                why = f"{place}: status {reply.status_code}: {reply.text[:200]}"
                continue
            if reply.status_code != 200:
                why = f"{place}: status {reply.status_code}: {reply.text[:300]}"
                raise NoAnswer(why, refused=reply.status_code)
            return _object(reply, place)
        raise NoAnswer(f"{why} (after {TRIES} tries)")

    def close(self) -> None:
        self._client.close()


def _object(reply: httpx.Response, place: str) -> Json:
    try:
        content = reply.json()
    except ValueError as error:
        raise NoAnswer(f"{place}: its answer is no JSON: {reply.text[:100]!r}") from error
    if not isinstance(content, dict):
        raise NoAnswer(f"{place}: its answer is no JSON object")
    return content
