"""Count how many of the completions that students learn from are right, for both teachers."""

from collections.abc import Sequence
from pathlib import Path

from demo import models as demo
from leyden.run.run import Run
from leyden.run.stage import TEACH
from leyden.store.reader import Row, open_store
from tasks import CHARACTERS, TASKS


def share_right(out: Path, name: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """One share per seed, for the scoring teacher (``one``) and the other teacher (``two``)."""
    task, tokenizer = TASKS[name], demo.make_tokenizer(CHARACTERS)

    def is_right(row: Row) -> bool:
        prompt, answer = (
            str(tokenizer.decode(ids)) for ids in (row["prompt_ids"], row["completion_ids"][:-1])
        )
        return row["finish_reason"] == "stop" and task.grade(prompt, answer)

    def share(seed: int, condition: str) -> float:
        run = Run.open(out / "runs" / name / f"{seed}-{condition}" / "main")
        rows = open_store(run.folder(TEACH))
        return sum(is_right(row) for row in rows) / len(rows)

    return {kind: [share(seed, kind) for seed in seeds] for kind in ("one", "two")}
