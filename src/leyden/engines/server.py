"""A vLLM or SGLang server that runs already, as an engine.

Nothing that a server says of its model can be checked, so the model is the recipe's word. What can
be checked is: each answer is read strictly (``server_api.py``), and fixed sequences are scored when
the engine is opened, after broken connections and at the end, since another model may have been
started under the same name.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from leyden.engines.base import (
    Completion,
    EngineSpec,
    Failed,
    GenerateRequest,
    Offers,
    ScoreRequest,
    TokenScores,
)
from leyden.engines.http import NoAnswer, Servers
from leyden.engines.server_api import Api, Lie, SglangApi, VllmApi
from leyden.errors import EngineError
from leyden.recipe.sampling import Sampling

SAME_MODEL = 0.1  # nats, as a mean over the fixed sequences: other models differ by far more
CHECK_EVERY = 500  # rows between two looks at whether it is the same model
GIVE_UP = 8  # rows in a row that got no answer
FIXED = np.array([7, 3, 11, 5, 13, 2, 17, 9, 19, 4, 23, 6, 29, 8, 31, 10], np.int32)
T = TypeVar("T", Completion, TokenScores)


@dataclass(eq=False)
class ServerEngine:
    """One model that samples and scores behind one or several addresses."""

    spec: EngineSpec

    offers = Offers(at_ids=False, entropy=False, tail="complement")

    @cached_property
    def servers(self) -> Servers:
        choice = self.spec.choice
        return Servers(choice.urls, choice.row_seconds, choice.in_flight, choice.api_key_variable)

    def numerics(self) -> dict[str, Any]:
        """What the servers say of themselves. Raises EngineError where one does not answer, or
        they differ."""
        told = [self._about(url) for url in self.servers.urls]
        if differ := next((other for other in told if other != told[0]), None):
            raise EngineError(
                f"the servers of one role differ: {told[0]} and {differ}",
                hint="start all of engines.ROLE.urls with one model and one version",
            )
        return {"engine": "server", "api": self.spec.choice.api, "dtype": "the server's", **told[0]}

    def _about(self, url: str) -> dict[str, Any]:
        path = "/version" if self.spec.choice.api == "vllm" else "/get_server_info"
        try:
            version = self.servers.get(url, path).get("version", "unknown")
            return {"version": version, "served": self._served(url)}
        except NoAnswer as error:
            raise EngineError(
                f"{url}: no server answers: {error}",
                hint="start it, or correct engines.ROLE.urls and api",
            ) from error

    def _served(self, url: str) -> str:
        """The name under which the server knows the model."""
        names = [str(row.get("id")) for row in self.servers.get(url, "/v1/models").get("data", [])]
        wanted = self.spec.choice.served_model
        if wanted not in names if wanted else len(names) != 1:
            raise EngineError(
                f"{url}: serves {', '.join(names) or 'no model'}, and the recipe asks for "
                f"{wanted or 'the only one'}",
                hint="set engines.ROLE.served_model to one of these names",
            )
        return wanted or names[0]

    @cached_property
    def api(self) -> Api:
        if self.spec.choice.api == "sglang":
            return SglangApi()
        return VllmApi(self._served(self.servers.urls[0]))

    def load(self) -> None:
        """Look whether the servers answer, and remember how they score. Raises EngineError."""
        if "fixed_scores" not in vars(self):
            self.numerics()
            self.fixed_scores = self._score_fixed()
            self.processed: set[Sampling] = set()

    def close(self) -> None:
        """Close the connections. The servers go on."""
        for name in ("servers", "api", "fixed_scores"):
            if name == "servers" and name in vars(self):
                self.servers.close()
            vars(self).pop(name, None)

    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion | Failed]]:
        """Sample a completion for every request, each by a question of its own."""
        self.load()
        self._check_processed(sampling)

        def ask(request: GenerateRequest) -> Completion:
            answer = self.servers.post(self.api.path, self.api.sample(request, sampling, stop_ids))
            made = self.api.completion(answer)
            if sampling.temperature == 0:  # the sampler is certain, whatever the model's log-prob
                made = Completion(made.ids, np.zeros_like(made.logp), made.finish_reason)
            return made

        return self._answers(requests, ask)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[tuple[int, TokenScores | Failed]]:
        """Score the completion of every request."""
        self.load()

        def ask(request: ScoreRequest) -> TokenScores:
            answer = self.servers.post(self.api.path, self.api.score(request))
            return self.api.scores(answer, request)

        return self._answers(requests, ask)

    def _answers(
        self, requests: Iterable[Any], ask: Callable[[Any], T]
    ) -> Iterator[tuple[int, T | Failed]]:
        """Keep a bounded number of questions in flight; answers as they come."""
        coming, flying = enumerate(requests), dict[Future[T], int]()
        most, done, silent, broken = self._most, 0, 0, self.servers.broken
        with ThreadPoolExecutor(most) as pool:
            try:
                while True:
                    for number, request in islice(coming, most - len(flying)):
                        flying[pool.submit(ask, request)] = number
                    if not flying:
                        break
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        number, result = flying.pop(future), _result(future)
                        silent = silent + 1 if isinstance(result, NoAnswer) else 0
                        if silent >= GIVE_UP:
                            raise self._silence(result)
                        done += 1
                        if self.servers.broken > broken or done % CHECK_EVERY == 0:
                            broken = self.servers.broken
                            self._check_same_model()
                        failed = isinstance(result, NoAnswer)
                        yield number, Failed(str(result)) if failed else result
                self._check_same_model()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _most(self) -> int:
        return self.spec.choice.in_flight * len(self.servers.urls)

    @staticmethod
    def _silence(why: Any) -> EngineError:
        return EngineError(
            f"{GIVE_UP} questions in a row got no answer, the last: {why}",
            hint="what is committed stays; look at the server, and run the command again",
        )

    def _score_fixed(self) -> list[np.ndarray]:
        """Log-probs of fixed tokens, from each server."""
        request = ScoreRequest(FIXED[:1], FIXED[1:])
        scores = []
        for url in self.servers.urls:
            try:
                answer = self.servers.post_to(url, self.api.path, self.api.score(request))
                scores.append(self.api.scores(answer, request).logp)
            except NoAnswer as error:
                raise EngineError(
                    f"{url}: cannot score: {error}", hint="look at what the server printed"
                ) from error
            except Lie as error:
                raise _lied(url, error) from error
        return scores

    def _check_same_model(self) -> None:
        for url, before, now in zip(
            self.servers.urls, self.fixed_scores, self._score_fixed(), strict=True
        ):
            gap = float(np.abs(before - now).mean())
            if not gap <= SAME_MODEL:
                raise EngineError(
                    f"{url}: the same tokens now score {gap:.3g} nats away from when the work "
                    "began, so another model answers",
                    hint="start the first model again; rows since then may be of the other, so "
                    "make the stage again with --redo",
                )

    def _check_processed(self, sampling: Sampling) -> None:
        """Refuse a server whose log-probs of samples are not those after temperature and nucleus.

        It cannot be asked, so one token is sampled that is not the likeliest by far, and scored.
        """
        plain = sampling.temperature in (0.0, 1.0) and sampling.top_p == 1.0
        if plain or sampling in self.processed:
            return
        hot = Sampling(temperature=2.0, max_new_tokens=8)
        request = GenerateRequest([int(i) for i in FIXED], 1)
        try:
            made = self.api.completion(
                self.servers.post(self.api.path, self.api.sample(request, hot, []))
            )
            asked = ScoreRequest(FIXED, made.ids)
            raw = self.api.scores(self.servers.post(self.api.path, self.api.score(asked)), asked)
        except (NoAnswer, Lie) as error:
            raise _lied(self.servers.urls[0], error) from error
        if float(np.abs(raw.logp - made.logp).mean()) < SAME_MODEL / 10:
            raise EngineError(
                f"{self.servers.urls[0]}: gives log-probs of samples as the model has them, not as "
                f"temperature {sampling.temperature:g} and top_p {sampling.top_p:g} make them",
                hint="start vLLM with --logprobs-mode processed_logprobs, or sample at temperature "
                "1 and top_p 1",
            )
        self.processed.add(sampling)


def _result(future: Future[T]) -> T | NoAnswer:
    try:
        return future.result()
    except NoAnswer as error:
        return error
    except Lie as error:
        raise _lied("the server", error) from error


def _lied(place: str, error: Exception) -> EngineError:
    return EngineError(
        f"{place}: its answer cannot be used: {error}",
        hint="nothing of it was kept; see the guide on engines for what a server must be started "
        "with",
    )
