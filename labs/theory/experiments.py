"""One function per question. Each returns plain numbers that are exact to rounding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from enumeration import (
    Family,
    Policy,
    V,
    advantages,
    bigram,
    chi_square,
    gap_parts,
    offline_gradient,
    online_gradient,
    prefix_logp,
    score_bound,
    second_moment,
    sequence_kl,
    tabular,
)
from estimators import TAU, Loss, dense, frozen, sampled, sft, tempered, train

FAMILIES = {"tabular": tabular, "bigram": bigram}
SFT = {"steps": 60, "learning_rate": 0.02}
OPD = {"steps": 150, "learning_rate": 0.03}


@dataclass(frozen=True)
class World:
    """A family, a base student, two similar teachers, and the base after SFT on each of them."""

    family: Family
    teachers: dict[str, Policy]
    references: dict[str, Tensor]

    @classmethod
    def draw(cls, name: str, length: int, seed: int, *, sharpness: float = 1.5) -> "World":
        generator = torch.Generator().manual_seed(seed)
        full, family = tabular(length), FAMILIES[name](length)

        def normal(size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        common = sharpness * normal(full.num_parameters)
        teachers = {
            who: full.policy(common + 0.5 * sharpness * normal(full.num_parameters))
            for who in ("A", "B")
        }
        base_D = 0.3 * normal(family.num_parameters)
        references = {
            who: train(family, base_D, teacher, sft, **SFT) for who, teacher in teachers.items()
        }
        return cls(family, teachers, references)

    def reference(self, who: str) -> Policy:
        return self.family.policy(self.references[who])


def regression_identity(*, length: int = 5, draws: int = 5) -> dict[str, float]:
    """Relative difference of the clipped policy gradient and minus the Huber loss's gradient."""
    worst = 0.0
    for seed in range(draws):
        world = World.draw("tabular", length, seed)
        writer, teacher = world.reference("A"), world.teachers["A"]
        theta_D = world.references["A"] + torch.randn(world.family.num_parameters) * 0.3
        for clip in (0.5, TAU):
            theta = theta_D.clone().requires_grad_()
            loss = sampled(clip=clip)(world.family.policy(theta), teacher, writer)
            (descent,) = torch.autograd.grad(loss, theta)
            paper = _clipped_policy_gradient(theta_D, world, teacher, writer, clip)
            worst = max(worst, ((paper + descent).norm() / paper.norm()).item())
    return {"relative_gap": worst}


def _clipped_policy_gradient(theta_D, world: World, teacher, writer, clip: float) -> Tensor:
    """E_writer sum clip(A, -tau, tau) grad log pi, one sequence after the other."""
    theta_D = theta_D.clone().requires_grad_()
    policy = world.family.policy(theta_D)
    weight = prefix_logp(writer)[-1].exp()
    total = torch.zeros(())
    for sequence in range(len(weight)):
        digits = [sequence // V**p % V for p in reversed(range(len(policy)))]
        place = 0
        for t, token in enumerate(digits):
            logp = policy[t][place, token]
            advantage = (teacher[t][place, token] - logp).detach().clamp(-clip, clip)
            total = total + weight[sequence] * advantage * logp
            place = place * V + token
    (gradient,) = torch.autograd.grad(total, theta_D)
    return gradient


def shared_optimum(*, length: int = 4, steps: int = 1500) -> dict[str, dict[str, float]]:
    """KL(student || A), nats per sequence, after long training on rollouts of each reference."""
    measured: dict[str, dict[str, float]] = {}
    for name in FAMILIES:
        world = World.draw(name, length, seed=11)
        measured[name] = {}
        for who in ("A", "B"):
            for how, writer in (("online", None), ("offline", world.reference(who))):
                theta_D = train(
                    world.family, world.references[who], world.teachers["A"], sampled(),
                    steps=steps, learning_rate=0.03, writer=writer,
                )  # fmt: skip
                student = world.family.policy(theta_D)
                key = f"{how}, {who} wrote the SFT data"
                measured[name][key] = sequence_kl(student, world.teachers["A"]).item()
    return measured


def gap_along_path(*, length: int = 5, points: int = 11) -> dict[str, list[float]]:
    """Norms of the gradient gap and its parts on the way from the reference to the teacher."""
    world = World.draw("tabular", length, seed=3)
    start_D, teacher = world.references["A"], world.teachers["A"]
    end_D = torch.cat([level.flatten() for level in teacher])
    reference = world.reference("A")
    measured: dict[str, list[float]] = {
        key: [] for key in ("share", "online", "gap", "prefix", "action", "bound", "identity")
    }
    for share in torch.linspace(0, 1, points):
        theta_D = (1 - share) * start_D + share * end_D
        on = online_gradient(theta_D, world.family, teacher)
        gap = on - offline_gradient(theta_D, world.family, teacher, reference)
        prefix, action = gap_parts(theta_D, world.family, teacher, reference)
        policy = world.family.policy(theta_D)
        sigma = second_moment(reference, advantages(policy, teacher))
        bound = score_bound(theta_D, world.family) * sigma
        values = [share, on.norm(), gap.norm(), prefix.norm(), action.norm()]
        values += [bound * chi_square(policy, reference).sqrt(), (prefix + action - gap).norm()]
        for key, value in zip(measured, values, strict=True):
            measured[key].append(float(value))
    return measured


def bound_against_length(*, lengths=(1, 2, 3, 4, 5, 6)) -> dict[str, list[float]]:
    """Looseness of Theorem 3.5 for each length: bound / gap, halfway to the teacher."""
    measured: dict[str, list[float]] = {"length": list(map(float, lengths)), "looseness": []}
    for length in lengths:
        world = World.draw("bigram", length, seed=4)
        reference, teacher = world.reference("A"), world.teachers["A"]
        best_D = train(world.family, world.references["A"], teacher, sampled(), **OPD)
        theta_D = (world.references["A"] + best_D) / 2
        gap = online_gradient(theta_D, world.family, teacher)
        gap = gap - offline_gradient(theta_D, world.family, teacher, reference)
        policy = world.family.policy(theta_D)
        bound = score_bound(theta_D, world.family) * chi_square(policy, reference).sqrt()
        bound = bound * second_moment(reference, advantages(policy, teacher))
        measured["looseness"].append(float(bound / gap.norm()))
    return measured


def teacher_bias(*, length: int = 4, mixes=(0.0, 0.25, 0.5, 1.0)) -> dict[str, list]:
    """Theorems 3.8 and 3.9 at the reference: the gradients' change when another teacher scores,
    against G sigma_Delta; and whether training on its scores ends at the scorer or elsewhere."""
    world = World.draw("tabular", length, seed=5)
    theta_D, writer = world.references["A"], world.reference("A")
    first, second = world.teachers["A"], world.teachers["B"]
    measured: dict[str, list] = {
        "mix": list(mixes), "offline": [], "online": [], "bound": [], "kl_to_scorer": [],
    }  # fmt: skip
    for mix in mixes:
        scorer = [
            ((1 - mix) * a + mix * b).log_softmax(-1) for a, b in zip(first, second, strict=True)
        ]
        difference = [a - s for a, s in zip(first, scorer, strict=True)]
        bound = score_bound(theta_D, world.family) * second_moment(writer, difference)
        off = offline_gradient(theta_D, world.family, scorer, writer)
        off = off - offline_gradient(theta_D, world.family, first, writer)
        on = online_gradient(theta_D, world.family, scorer)
        on = on - online_gradient(theta_D, world.family, first)
        trained = train(
            world.family, theta_D, scorer, sampled(), steps=600, learning_rate=0.03, writer=writer
        )
        ended = sequence_kl(world.family.policy(trained), scorer)
        for key, value in zip(
            ("offline", "online", "bound", "kl_to_scorer"),
            (off.norm(), on.norm(), bound, ended),
            strict=True,
        ):
            measured[key].append(float(value))
    return measured


def covariance(*, length: int = 4, draws: int = 100) -> dict[str, float | list[float]]:
    """Theorem 3.7 and the sign of its term: does the offline step drift less than the online one?

    Drift is KL(pi_theta || pi_ref) over sequences; its change along each ascent direction is an
    inner product. Students are the reference with noise on its logits.
    """
    identity, less, changes = 0.0, 0, []
    for seed in range(draws):
        world = World.draw("tabular", length, seed=100 + seed)
        reference, teacher = world.reference("A"), world.teachers["A"]
        generator = torch.Generator().manual_seed(seed)
        theta_D = world.references["A"] + 0.5 * torch.randn(
            world.family.num_parameters, generator=generator
        )
        on = online_gradient(theta_D, world.family, teacher)
        off = offline_gradient(theta_D, world.family, teacher, reference)
        identity = max(identity, (off - (on - _cov(theta_D, world, teacher))).norm().item())
        theta = theta_D.clone().requires_grad_()
        (drift,) = torch.autograd.grad(sequence_kl(world.family.policy(theta), reference), theta)
        change = float((off - on) @ drift / (on.norm() * drift.norm()))
        changes.append(change)
        less += change < 0
    return {"identity": identity, "share_with_less_drift": less / draws, "changes": changes}


def _cov(theta_D: Tensor, world: World, teacher: Policy) -> Tensor:
    """Cov_ref[w(x), f(x)] from its definition, sequence by sequence."""
    reference, policy = world.reference("A"), world.family.policy(theta_D)
    written, ours = prefix_logp(reference)[-1], prefix_logp(policy)[-1]
    w_X = (ours - written).exp()
    p_X = written.exp()
    centred_X = p_X * (w_X - (p_X * w_X).sum())
    theta = theta_D.clone().requires_grad_()
    total = torch.zeros(1)
    student = world.family.policy(theta)
    for advantage, logp in zip(advantages(policy, teacher), student, strict=True):
        total = (total[:, None] + advantage.detach() * logp).flatten()
    (measured,) = torch.autograd.grad((centred_X * total).sum(), theta)
    return measured


ESTIMATORS: dict[str, tuple[Loss, bool]] = {  # name: (loss, rollouts follow the student)
    "SFT continued": (sft, False),
    "standard OPD, sampled": (sampled(), True),
    "Lightning, sampled": (sampled(), False),
    "+ token weights": (sampled(importance="token"), False),
    "+ prefix weights": (sampled(importance="prefix"), False),
    "tau = 1": (sampled(clip=1.0), False),
    "Lightning, top-2": (dense(k=2, tail=False), False),
    "Lightning, top-2 + tail": (dense(k=2, tail=True), False),
    "Lightning, exact": (dense(k=V, tail=False), False),
    "standard OPD, exact": (dense(k=V, tail=False), True),
    "frozen advantage": (frozen, False),
}


def final_kl(*, length: int = 4, seeds: int = 6, **budget) -> dict[str, dict[str, list[float]]]:
    """family -> estimator -> KL(student || A) per sequence after the same steps: means over worlds
    with [consistent, its standard error, mismatched, its standard error, paired difference, its
    standard error]."""
    budget = {**OPD, **budget}
    measured: dict[str, dict[str, list[float]]] = {}
    for name in FAMILIES:
        worlds = [World.draw(name, length, seed=20 + seed) for seed in range(seeds)]
        measured[name] = {"before (the reference)": _summary([_start_kl(w) for w in worlds])}
        for title, (loss, follows) in ESTIMATORS.items():
            pairs = [
                [_trained_kl(world, who, loss, follows, budget) for who in ("A", "B")]
                for world in worlds
            ]
            measured[name][title] = _summary(pairs)
    return measured


def _start_kl(world: World) -> list[float]:
    return [sequence_kl(world.reference(who), world.teachers["A"]).item() for who in ("A", "B")]


def _trained_kl(world: World, who: str, loss: Loss, follows: bool, budget) -> float:
    writer = None if follows else world.reference(who)
    start_D, teacher = world.references[who], world.teachers["A"]
    theta_D = train(world.family, start_D, teacher, loss, writer=writer, **budget)
    return sequence_kl(world.family.policy(theta_D), teacher).item()


def _summary(pairs: list[list[float]]) -> list[float]:
    both = torch.tensor(pairs)
    columns = [both[:, 0], both[:, 1], both[:, 1] - both[:, 0]]
    return [float(x) for c in columns for x in (c.mean(), c.std() / len(c) ** 0.5)]


def sampling(*, length: int = 4, seeds: int = 6) -> dict[str, dict[str, list[float]]]:
    """KL(student || A) when the rollouts are drawn at T = 1 and at T = 0.7 with top-p 0.9: means
    and standard errors over worlds."""
    ways = {"T 1": (1.0, 1.0), "T 0.8": (0.8, 1.0), "T 0.7, top-p 0.9": (0.7, 0.9)}
    measured: dict[str, dict[str, list[float]]] = {}
    for name in FAMILIES:
        worlds = [World.draw(name, length, seed=20 + seed) for seed in range(seeds)]
        measured[name] = {}
        for way, (temperature, top_p) in ways.items():
            for title in ("Lightning, sampled", "Lightning, top-2 + tail"):
                values = []
                for world in worlds:
                    writer = tempered(world.reference("A"), temperature=temperature, top_p=top_p)
                    theta_D = train(
                        world.family, world.references["A"], world.teachers["A"],
                        ESTIMATORS[title][0], writer=writer, **OPD,
                    )  # fmt: skip
                    student = world.family.policy(theta_D)
                    values.append(sequence_kl(student, world.teachers["A"]))
                spread = torch.stack(values)
                error = float(spread.std() / len(values) ** 0.5)
                measured[name][f"{title}, {way}"] = [float(spread.mean()), error]
    return measured


def against_k(*, length: int = 4, seeds: int = 6) -> dict[str, list[float]]:
    """Mean KL(student || A), tabular, for every k with and without the tail bucket."""
    worlds = [World.draw("tabular", length, seed=20 + seed) for seed in range(seeds)]
    measured: dict[str, list[float]] = {"k": [1.0, 2.0, 3.0, 4.0], "renormalised": [], "tail": []}
    for k in (1, 2, 3, 4):
        for key, tail in (("renormalised", False), ("tail", True)):
            loss = dense(k=k, tail=tail)
            kls = [_trained_kl(world, "A", loss, False, OPD) for world in worlds]
            measured[key].append(sum(kls) / len(kls))
    return measured
