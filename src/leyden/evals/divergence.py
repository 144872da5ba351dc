"""Measure the distance of a student from the teacher: exact reverse KL on its own completions."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from leyden.data.batches import collate, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.evals.results import Divergence
from leyden.evals.statistics import RESAMPLES
from leyden.logprobs import reverse_kl
from leyden.models.load import hidden_states
from leyden.models.parts import head_of


@torch.inference_mode()
def measure_divergence(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    vocab_size: int,
    batch_tokens: int,
    chunk: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Divergence:
    """KL(student || teacher) over the whole vocabulary, at every completion token."""
    sums, counts = [], []
    for group in split_by_tokens([len(s) for s in sequences], budget=batch_tokens):
        batch = collate([sequences[i] for i in group]).to(student.device)
        kl_N = reverse_kl(
            hidden_states(student, batch),
            head_of(student, vocab_size),
            hidden_states(teacher, batch),
            head_of(teacher, vocab_size),
            chunk=chunk,
        )
        lengths = [len(sequences[i].completion_ids) for i in group]
        sums += [float(part.double().sum()) for part in kl_N.split(lengths)]
        counts += lengths
        progress(len(group))
    return _ratio(np.array(sums), np.array(counts))


def _ratio(sums: np.ndarray, counts: np.ndarray) -> Divergence:
    """The ratio of sums, bootstrapped over sequences, whose tokens are not independent."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(sums), len(sums)) for _ in range(RESAMPLES))
    ratios = [sums[draw].sum() / counts[draw].sum() for draw in draws]
    low, high = np.quantile(ratios, [0.025, 0.975])
    mean = float(sums.sum() / counts.sum())
    return Divergence(mean, (float(low), float(high)), len(sums), int(counts.sum()))
