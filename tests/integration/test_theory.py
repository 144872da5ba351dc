"""The theory lab's claims on smaller worlds, and its losses against the package's."""

import copy
import json
import sys

import pytest
import torch

from conftest import ROOT
from leyden.losses import sampled_loss, sft_loss, topk_loss, topk_tail_loss

SMALL = {
    "final_kl": {"length": 4, "seeds": 2},
    "sampling": {"length": 3, "seeds": 2},
    "covariance": {"length": 3, "draws": 10},
    "shared_optimum": {"length": 3, "steps": 500},
    "against_k": {"length": 3, "seeds": 2},
    "teacher_bias": {"length": 3},
    "gap_along_path": {"length": 3, "points": 5},
    "bound_against_length": {"lengths": (1, 2, 4)},
    "regression_identity": {"length": 4, "draws": 2},
}


@pytest.fixture(scope="module")
def lab():
    """The lab's modules. They set the default dtype to float64, which is restored afterwards."""
    before = torch.get_default_dtype()
    sys.path.insert(0, str(ROOT / "labs/theory"))
    try:
        import claims
        import enumeration
        import estimators
        import experiments
        import page_text

        yield {m.__name__: m for m in (claims, enumeration, estimators, experiments, page_text)}
    finally:
        sys.path.remove(str(ROOT / "labs/theory"))
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def results(lab):
    return {name: getattr(lab["experiments"], name)(**size) for name, size in SMALL.items()}


def test_every_claim_of_the_page_holds(lab, results):
    failed = [claim for claim, holds in lab["claims"].check(results).items() if not holds]
    assert not failed


def test_the_page_says_what_its_results_say(lab):
    folder = ROOT / "labs/theory"
    results = json.loads((folder / "results.json").read_text())
    verdicts = lab["claims"].check(results)
    assert all(verdicts.values())
    assert lab["page_text"].page(results, verdicts) == (folder / "README.md").read_text()


def test_a_claim_can_fail(lab, results):
    results = copy.deepcopy(results)
    results["covariance"]["identity"] = 1e-3
    results["against_k"]["tail"][0] = 99.0
    assert sum(not holds for holds in lab["claims"].check(results).values()) == 2


def test_the_labs_losses_are_the_packages(lab):
    """One prefix with every token as a rollout, weighted by the writer's probabilities."""
    estimators, v = lab["estimators"], lab["enumeration"].V
    generator = torch.Generator().manual_seed(0)
    student, teacher, writer = (
        torch.randn(1, v, generator=generator, dtype=torch.float64).log_softmax(-1)
        for _ in range(3)
    )
    weight = writer.exp()[0]
    policies = [student], [teacher], [writer]
    for clip in (0.3, 10.0):
        ours = (weight * sampled_loss(student[0], teacher[0], clip=clip)).sum()
        torch.testing.assert_close(estimators.sampled(clip=clip)(*policies), ours)
    for k in (1, 2, 3):
        ids = teacher.topk(k).indices
        p, q = student.gather(-1, ids), teacher.gather(-1, ids)
        tail = teacher.scatter(-1, ids, -torch.inf).logsumexp(-1)
        ours = topk_tail_loss(p, q, tail).sum()
        torch.testing.assert_close(estimators.dense(k=k, tail=True)(*policies), ours)
        torch.testing.assert_close(
            estimators.dense(k=k, tail=False)(*policies), topk_loss(p, q).sum()
        )
    ours = (teacher.exp()[0] * sft_loss(student[0])).sum()
    torch.testing.assert_close(estimators.sft(*policies), ours)
