"""The arms that are compared, and two mistakes that the package does not allow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from leyden.data.sequences import TokenSequence
from leyden.stages import distill
from leyden.train import objective

K, VOCAB = 4, 20
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 3e-5)  # every arm's learning rate is chosen from these
CONTROL, ONLINE, ONLINE_EXACT = "sft_continued", "standard_opd", "standard_opd_exact"

MAIN: dict[str, dict[str, Any]] = {
    CONTROL: {"objective": "sft", "reduction": "token_mean"},
    ONLINE: {"refresh_every": 1},
    ONLINE_EXACT: {"refresh_every": 1, "objective": "topk_tail", "top_k": VOCAB - 1},
    "refresh_10": {"refresh_every": 10},
    "sampled": {},
    "sampled_token": {"importance": "token"},
    "sampled_prefix": {"importance": "prefix"},
    "sampled_tau1": {"advantage_clip": 1.0},
    "topk_tail": {"objective": "topk_tail", "top_k": K},
    "exact": {"objective": "topk_tail", "top_k": VOCAB - 1},
    "eos_unscored": {},
    "frozen": {},
}
SHARP: dict[str, dict[str, Any]] = {  # rollouts at T 0.7, top-p 0.9
    "sharp_sampled": {},
    "sharp_topk_tail": {"objective": "topk_tail", "top_k": K},
}
WHY_RATE = 3e-4
WHY: dict[str, dict[str, Any]] = {  # to explain why a few refreshes are worse than none or many
    "why_stored": {},
    "why_stored_no_momentum": {"beta1": 0.0},
    "why_every_step": {"refresh_every": 1},
    "why_every_10": {"refresh_every": 10},
    "why_every_10_no_momentum": {"refresh_every": 10, "beta1": 0.0},
    "why_every_10_tau1": {"refresh_every": 10, "advantage_clip": 1.0},
    "why_every_10_exact": {"refresh_every": 10, "objective": "topk_tail", "top_k": VOCAB - 1},
}
TITLES = {
    "reference": "SFT (the reference policy)",
    CONTROL: "SFT continued on fresh completions, equal sequences",
    ONLINE: "standard OPD (sampled, fresh every step)",
    ONLINE_EXACT: "standard OPD, exact (full vocabulary, fresh every step)",
    "refresh_10": "fresh rollouts every 10 steps",
    "sampled": "Lightning OPD, sampled (the paper's)",
    "sampled_token": "+ token importance weights",
    "sampled_prefix": "+ prefix importance weights",
    "sampled_tau1": "+ tau = 1",
    "topk_tail": "Lightning OPD, top-4 with tail",
    "exact": "Lightning OPD, exact (full vocabulary)",
    "sharp_sampled": "sampled, rollouts at T 0.7, top-p 0.9",
    "sharp_topk_tail": "top-4 with tail, rollouts at T 0.7, top-p 0.9",
    "eos_unscored": "mistake: the stop token is not scored",
    "frozen": "mistake: the advantage is frozen at the reference",
}


@dataclass(frozen=True)
class WithoutStop:
    """Scored rollouts whose stop token carries no loss, as in the released code."""

    pair: Any
    stop_id: int = 1

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, index: int) -> TokenSequence:
        whole = self.pair[index]
        if whole.completion_ids[-1] != self.stop_id or len(whole.completion_ids) == 1:
            return whole
        columns = whole.columns.map(lambda column: column[:-1])
        return TokenSequence(whole.prompt_ids, whole.completion_ids[:-1], columns)


@contextmanager
def mistake(arm: str) -> Iterator[None]:
    """Make the mistake that ``arm`` is named after, while its job runs."""
    if arm.startswith("eos_unscored"):
        open_pair = distill.open_pair
        with _patched(distill, "open_pair", lambda *a, **k: WithoutStop(open_pair(*a, **k))):
            yield
    elif arm.startswith("frozen"):
        with _patched(objective, "_distillation_loss", _frozen(objective._distillation_loss)):
            yield
    else:
        yield


def _frozen(real: Callable) -> Callable:
    """The distillation loss with the advantage of the reference in place of the live one."""

    def loss(student, batch, settings, measuring):
        columns, clip = batch.columns, settings.advantage_clip
        advantage_N = (columns.teacher.logp - columns.reference.logp).clamp(-clip, clip)
        with _patched(objective, "_match", lambda logp_N, *others: -advantage_N * logp_N):
            return real(student, batch, settings, measuring)

    return loss


@contextmanager
def _patched(module, name: str, value) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
