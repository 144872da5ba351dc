"""Beside a store: which processes filled it, with what, and how much their engines disagree with
themselves. It is for people; the store's own bytes do not depend on it.

One thing is compared: a store is filled by one model. So every engine must score the sequences of
the self-test as the first one did.
"""

import json
import os
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from leyden.engines.base import OTHER_MODEL, Engine
from leyden.errors import ConsistencyError
from leyden.files import create_once, read_object, whole_files
from leyden.inference.selftest import Proof
from leyden.store.claim import here

HANDS = "hands"


def note_engine(folder: Path, engine: Engine, proof: Proof) -> None:
    """Note that this process is about to fill the store in ``folder`` with ``engine``. Raises
    ConsistencyError where it is not the model that others filled it with."""
    for path in whole_files(folder / HANDS, "*.json"):
        _check_same_model(folder, read_object(path).get("scores", {}), proof)
    about = {"host": here()["host"], "pid": os.getpid(), "noise": proof.noise.told()}
    about |= {"numerics": engine.numerics(), "scores": proof.scores}
    content = json.dumps(about, sort_keys=True).encode()
    create_once(folder / HANDS / f"{uuid.uuid4().hex[:12]}.json", content)


def _check_same_model(folder: Path, before: dict[str, list[float]], proof: Proof) -> None:
    both = [
        (before[d], now) for d, now in proof.scores.items() if len(before.get(d, ())) == len(now)
    ]
    if not both:
        return
    gap = float(np.concatenate([np.abs(np.subtract(a, b)) for a, b in both]).mean())
    if not gap <= OTHER_MODEL:
        raise ConsistencyError(
            f"{folder}: the engine scores the same tokens {gap:.3g} nats away from the one that "
            "began the store, so it runs another model",
            hint="start the first model again, or make the stage again with --redo",
        )


def noted_engines(folder: Path) -> list[dict[str, Any]]:
    """The engines noted beside the stores in ``folder`` and below: each different one once, with
    the number of processes that had it and its largest noise."""
    found: dict[str, dict[str, Any]] = {}
    workers: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for path in whole_files(folder, f"**/{HANDS}/*.json"):
        note = read_object(path, "numerics", "noise", "host", "pid")
        key = json.dumps(note["numerics"], sort_keys=True)
        one = found.setdefault(key, {"numerics": note["numerics"], "noise": {}})
        workers[key].add((note["host"], note["pid"]))
        for name, value in note["noise"].items():
            one["noise"][name] = max(value, one["noise"].get(name, 0.0))
    return [one | {"processes": len(workers[key])} for key, one in found.items()]
