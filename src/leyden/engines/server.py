"""A vLLM or SGLang server that runs already, as an engine.

Nothing that a server says of its model can be checked, so the model is the recipe's word. What can
be checked is: each answer is read strictly (``server_api.py``), and fixed sequences are scored when
the engine is opened and before answers are given out, since another model may have been started
under the same name.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from leyden.engines.base import (
    OTHER_MODEL,
    Completion,
    EngineSpec,
    Failed,
    GenerateRequest,
    Offers,
    ScoreRequest,
    TokenScores,
)
from leyden.engines.http import NoAnswer, Servers, Threads
from leyden.engines.server_api import Api, Lie, SglangApi, VllmApi
from leyden.errors import EngineError
from leyden.recipe.sampling import Sampling

HELD = 50  # answers that are held back until the servers are seen to be the same
GIVE_UP = 8  # rows one after the other that got no answer
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
        """Ask the servers for version and model. Raises EngineError where one does not answer, or
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
        listed = self.servers.get(url, "/v1/models").get("data")
        rows = listed if isinstance(listed, list) else []
        names = [str(row.get("id")) for row in rows if isinstance(row, dict)]
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
            self.fixed_scores = self._score_all()
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
            made = self.api.completion(answer, request)
            if made.finish_reason == "length" and len(made.ids) < request.cap(sampling):
                raise NoAnswer("its context ended before max_new_tokens", refused=200)
            if made.finish_reason not in ("stop", "length"):
                raise NoAnswer(f"it ended with {made.finish_reason!r}", refused=200)
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
        """Keep a bounded number of questions in flight; answers as they come.

        Answers are held back until the servers have been seen to be the same once more: what
        another model said in between is never given out.
        """
        coming, flying, held = enumerate(requests), dict[Future[T], int](), []
        most, silent = self._most, 0
        pool = Threads(most)
        try:
            while True:
                for number, request in islice(coming, most - len(flying)):
                    flying[pool.submit(ask, request)] = number
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    number, result = flying.pop(future), _result(future)
                    unheard = isinstance(result, NoAnswer) and result.refused is None
                    silent = silent + 1 if unheard else 0
                    if silent >= GIVE_UP:
                        raise self._silence(result)
                    failed = isinstance(result, NoAnswer)
                    held.append((number, Failed(str(result)) if failed else result))
                if len(held) >= HELD:
                    self._check_same_model()
                    yield from held
                    held = []
            self._check_same_model()
            yield from held
        finally:
            pool.close()

    @property
    def _most(self) -> int:
        return self.spec.choice.in_flight * len(self.servers.urls)

    @staticmethod
    def _silence(why: Any) -> EngineError:
        return EngineError(
            f"{GIVE_UP} questions in a row got no answer, the last: {why}",
            hint="what is committed stays; look at the server, and run the command again",
        )

    def _score_fixed(self, url: str) -> np.ndarray:
        """A server's log-probs of fixed tokens. Raises NoAnswer."""
        size = self.spec.vocab_size or int(FIXED.max()) + 1
        ids = FIXED % size
        request = ScoreRequest(ids[:1], ids[1:])
        try:
            answer = self.servers.post_to(url, self.api.path, self.api.score(request))
            return self.api.scores(answer, request).logp
        except Lie as error:
            raise _lied(url, error) from error

    def _score_all(self) -> dict[str, np.ndarray]:
        """Those of every server, which must be alike."""
        scores = {}
        for url in self.servers.urls:
            try:
                scores[url] = self._score_fixed(url)
            except NoAnswer as error:
                raise EngineError(
                    f"{url}: cannot score: {error}", hint="look at what the server printed"
                ) from error
        (first, reference), *others = scores.items()
        for url, logp in others:
            if not (gap := float(np.abs(logp - reference).mean())) <= OTHER_MODEL:
                raise EngineError(
                    f"{url} and {first} score the same tokens {gap:.3g} nats apart, so they serve "
                    "different models",
                    hint="let all of engines.ROLE.urls serve one model",
                )
        return scores

    def _check_same_model(self) -> None:
        """Refuse where a server scores otherwise than at the beginning. One that does not answer
        is asked no more, as long as another does."""
        for url in list(self.servers.urls):
            try:
                now = self._score_fixed(url)
            except NoAnswer as error:
                if len(self.servers.urls) == 1:
                    raise self._silence(error) from error
                logging.getLogger(__name__).warning("%s: goes on without it: %s", url, error)
                self.servers.drop(url)
                continue
            gap = float(np.abs(self.fixed_scores[url] - now).mean())
            if not gap <= OTHER_MODEL:
                raise EngineError(
                    f"{url}: the same tokens now score {gap:.3g} nats away from when the work "
                    "began, so another model answers",
                    hint="start the first model again; what the other said was not kept",
                )

    def _check_processed(self, sampling: Sampling) -> None:
        """Refuse a server whose log-probs of samples are not those after temperature and nucleus.

        It cannot be asked, so a few tokens are sampled at a high temperature, and scored.
        """
        plain = sampling.temperature in (0.0, 1.0) and sampling.top_p == 1.0
        if plain or sampling in self.processed:
            return
        for url in self.servers.urls:
            try:
                same = [self._says_raw(url, seed) for seed in (1, 2, 3)]
            except (NoAnswer, Lie) as error:
                raise _lied(url, error) from error
            if True in same:
                raise EngineError(
                    f"{url}: gives log-probs of samples as the model has them, not as temperature "
                    f"{sampling.temperature:g} and top_p {sampling.top_p:g} make them",
                    hint="start vLLM with --logprobs-mode processed_logprobs, or sample at "
                    "temperature 1 and top_p 1",
                )
        self.processed.add(sampling)

    def _says_raw(self, url: str, seed: int) -> bool | None:
        """Whether samples come with the model's own log-probs; None where these would be alike."""
        hot = Sampling(temperature=2.0, max_new_tokens=8)
        prompt = FIXED % (self.spec.vocab_size or int(FIXED.max()) + 1)
        request = GenerateRequest([int(i) for i in prompt], seed)
        question = self.api.sample(request, hot, [])
        made = self.api.completion(self.servers.post_to(url, self.api.path, question), request)
        asked = ScoreRequest(prompt, made.ids)
        answer = self.servers.post_to(url, self.api.path, self.api.score(asked))
        raw = self.api.scores(answer, asked)
        if float(np.abs(raw.logp).mean()) < OTHER_MODEL:  # certain at any temperature
            return None
        return float(np.abs(raw.logp - made.logp).mean()) < OTHER_MODEL / 10


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
