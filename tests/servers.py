"""A stand-in for vLLM's and SGLang's servers that can lie, be slow, or die.

Its model is the table of ``table_engine.py``, so that every true number is known. It follows the
two servers' documented answers; the real ones are tried in ``test_vllm.py``.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from table_engine import SIZE, table

FAULTS = (
    "null", "shifted", "tempered", "truncated", "zero", "uniform", "missing ids", "unsaid",
    "decoded keys", "twice", "another prompt", "worst top", "one seed", "slow", "busy", "dying",
    "dead", "restarted", "raw",
)  # fmt: skip


@dataclass
class Served:
    """The behaviour of the stand-in; tests change it while it runs."""

    seed: int = 0
    fault: str = ""
    asked: int = 0
    restart_after: int = 0
    """Questions after which another model answers; 0 = none."""
    at_once: int = 0
    most_at_once: int = 0
    tries: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> int:
        """The seed of the table that answers now."""
        limit = 30 if self.fault == "restarted" else self.restart_after
        return self.seed + (1 if limit and self.asked > limit else 0)

    def logp(self, ids: list[int]) -> np.ndarray:
        """Log-probs of what follows each token, [T, SIZE]."""
        rows = table(self.model)[ids]
        if self.fault == "tempered":
            rows = rows / 0.7
            rows = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        if self.fault == "shifted":
            rows = np.roll(rows, 1, axis=0)
        if self.fault == "zero":
            rows = np.zeros_like(rows)
        if self.fault == "uniform":
            rows = np.full_like(rows, -np.log(SIZE))
        return rows

    def draw(self, ids: list[int], asked: dict[str, Any]) -> tuple[list[int], list[float]]:
        """Sampled ids with their log-probs, after the temperature unless that is the fault."""
        seed = 0 if self.fault == "one seed" else asked["seed"]
        rng, made, told = np.random.default_rng(seed), [], []
        for _ in range(asked["cap"]):
            true = table(self.model)[[*ids, *made][-1]]
            logp = true / asked["temperature"] if asked["temperature"] else true
            logp = logp - np.log(np.exp(logp).sum())
            token = (
                int(rng.choice(SIZE, p=np.exp(logp)))
                if asked["temperature"]
                else int(np.argmax(true))
            )
            made.append(token)
            told.append(float((true if self.fault == "raw" else logp)[token]))
            if token in asked["stops"]:
                break
        return made, told


class Handler(BaseHTTPRequestHandler):
    """Both servers' addresses."""

    protocol_version = "HTTP/1.1"

    @property
    def served(self) -> Served:
        assert isinstance(self.server, Server)
        return self.server.served

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        told = {
            "/version": {"version": "9.9"},
            "/get_server_info": {"version": "9.9"},
            "/v1/models": {"data": [{"id": "the-model"}]},
        }
        self.reply(told.get(self.path, {}), 200 if self.path in told else 404)

    def do_POST(self) -> None:
        served = self.served
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked += 1
            served.at_once += 1
            served.most_at_once = max(served.most_at_once, served.at_once)
            number = served.asked
            body = json.dumps(question)
            tries = served.tries[body] = served.tries.get(body, 0) + 1
        time.sleep(0.005)  # so that questions overlap
        try:
            if served.fault == "busy" and tries <= 2:
                return self.reply({"error": "too many requests"}, 429 if number % 2 else 503)
            if served.fault == "dead" or (served.fault == "dying" and number % 4 == 0):
                self.close_connection = True
                return self.connection.close()
            if served.fault == "slow":
                time.sleep(3)
            answer = (
                self.vllm(served, question)
                if "prompt" in question
                else self.sglang(served, question)
            )
            return self.reply(answer, 200)
        finally:
            with served.lock:
                served.at_once -= 1

    def vllm(self, served: Served, question: dict[str, Any]) -> dict[str, Any]:
        ids = question["prompt"]
        if question.get("prompt_logprobs") is not None:
            k = question["prompt_logprobs"]
            rows = served.logp(ids)
            scored: list[Any] = [None]
            for position, token in enumerate(ids[1:]):
                sign = 1 if served.fault == "worst top" else -1
                likeliest = np.argsort(sign * rows[position], kind="stable")[:k].tolist()
                scored.append(
                    {
                        self.key(served, i): {"logprob": self.told(served, rows[position][i])}
                        for i in [token, *likeliest]
                    }
                )
            if served.fault == "truncated":
                scored = scored[:-1]
            if served.fault == "twice":
                scored[-1]["0" + str(ids[-1])] = {"logprob": -1.0}
            if served.fault == "missing ids":
                scored[-1].pop(self.key(served, ids[-1]), None)
            return {
                "choices": [{"prompt_logprobs": scored, "token_ids": [1]}],
                "usage": {"prompt_tokens": self.read(served, ids)},
            }
        asked = {
            "seed": question["seed"],
            "cap": question["max_tokens"],
            "temperature": question["temperature"],
            "stops": question["stop_token_ids"],
        }
        made, logp = served.draw(ids, asked)
        reason = "stop" if made[-1] in asked["stops"] else "length"
        told = [self.told(served, value) for value in logp]
        return {
            "choices": [
                {
                    "token_ids": None if served.fault == "missing ids" else made,
                    "logprobs": {"token_logprobs": told},
                    "finish_reason": reason,
                }
            ]
        }

    def sglang(self, served: Served, question: dict[str, Any]) -> dict[str, Any]:
        ids, parameters = question["input_ids"], question["sampling_params"]
        if "logprob_start_len" in question:
            start, k, rows = (
                question["logprob_start_len"],
                question["top_logprobs_num"],
                served.logp(ids),
            )
            given: list[list[Any]] = [[None, ids[start], None]]
            likeliest: list[Any] = [None]
            for position in range(start + 1, len(ids)):
                row = rows[position - 1]
                given.append([self.told(served, row[ids[position]]), ids[position], None])
                top = np.argsort(-row, kind="stable")[:k].tolist()
                likeliest.append([[float(row[i]), i, None] for i in top])
            if served.fault == "truncated":
                given = given[:1]
            if served.fault == "missing ids":
                given[-1][1] = None
            told = {"input_token_logprobs": given, "input_top_logprobs": likeliest}
            return {"meta_info": told | {"prompt_tokens": self.read(served, ids)}}
        made, logp = served.draw(
            ids,
            {
                "seed": parameters["sampling_seed"],
                "cap": parameters["max_new_tokens"],
                "temperature": parameters["temperature"],
                "stops": parameters["stop_token_ids"],
            },
        )
        reason = "stop" if made[-1] in parameters["stop_token_ids"] else "length"
        pairs = [[self.told(served, v), i, None] for v, i in zip(logp, made, strict=True)]
        return {
            "output_ids": made,
            "meta_info": {"output_token_logprobs": pairs, "finish_reason": {"type": reason}},
        }

    def read(self, served: Served, ids: list[int]) -> int:
        """Tokens that it says it read."""
        return len(ids) + (served.fault == "another prompt")

    def key(self, served: Served, token: int) -> str:
        return f"word{token}" if served.fault == "decoded keys" else str(token)

    def told(self, served: Served, value: float) -> float | None:
        return {"null": None, "unsaid": -9999.0}.get(served.fault, float(value))

    def reply(self, content: dict[str, Any], status: int) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """A server on a free port of loopback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served = Served()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that are broken on purpose


@contextmanager
def running() -> Iterator[Server]:
    """A stand-in that answers until the context ends."""
    server = Server()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
