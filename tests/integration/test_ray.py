"""Ray, where it is installed (`make test-ray`): a local cluster makes the bytes of one process."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from test_hands import FLAGS, bytes_of

from conftest import write_small_recipe
from leyden.errors import ConfigError
from leyden.pipeline.pipeline import run_recipe
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.run import Run
from leyden.run.stage import ROLLOUT, SCORE

RAY = ["--execution.cluster", "ray", "--execution.workers", "2"]


def run_of(folder: Path, *flags: str) -> Run:
    recipe = load_recipe(write_small_recipe(folder), parse_overrides([*FLAGS, *flags]))
    return Run(folder / "run", recipe)


def test_without_ray_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="Ray is not installed here") as caught:
        run_recipe(run_of(tmp_path, *RAY), until="teach")
    assert "leyden[ray]" in caught.value.hint


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [0, 2])
def test_a_cluster_makes_the_bytes_of_one_process(tmp_path, kills):
    pytest.importorskip("ray", reason="Ray is not installed here")
    alone = run_of(tmp_path / "alone")
    run_recipe(alone, until="score")
    together = run_of(tmp_path / "together", *RAY)
    killer = threading.Thread(target=kill_actors, args=(kills,), daemon=True)
    killer.start()
    run_recipe(together, until="score")
    for job in (ROLLOUT, SCORE):
        assert bytes_of(together.folder(job)) == bytes_of(alone.folder(job))


def kill_actors(count: int) -> None:
    """Kill so many of Ray's processes that run our helper, as they come."""
    seen: set[int] = set()
    while len(seen) < count:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with_text = b""
            try:
                with_text = path.read_bytes()
            except OSError:
                continue
            number = int(path.parent.name)
            if b"ray::RayHand" in with_text and number not in seen and len(seen) < count:
                seen.add(number)
                os.kill(number, signal.SIGKILL)
        time.sleep(0.2)
