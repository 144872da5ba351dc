"""Beside a store: which processes filled it, with what, and how much their engines disagree with
themselves. It is for people; the store's own bytes do not depend on it."""

import json
import os
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

from leyden.engines.base import Engine
from leyden.files import create_once, read_object, whole_files
from leyden.inference.selftest import Noise
from leyden.store.claim import here

HANDS = "hands"


def note_engine(folder: Path, engine: Engine, noise: Noise) -> None:
    """Note that this process is about to fill the store in ``folder`` with ``engine``."""
    about = {"host": here()["host"], "pid": os.getpid(), "noise": noise.told()}
    content = json.dumps({**about, "numerics": engine.numerics()}, sort_keys=True).encode()
    create_once(folder / HANDS / f"{uuid.uuid4().hex[:12]}.json", content)


def noted_engines(folder: Path) -> list[dict[str, Any]]:
    """What was noted beside the stores in ``folder`` and below: each different engine once, with
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
