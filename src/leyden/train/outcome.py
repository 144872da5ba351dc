"""Whether training has left a model worth keeping, and whether its batches make sense."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from leyden.errors import EngineError
from leyden.recipe.training import Objective, Optimisation
from leyden.telemetry.metrics import Measurement, read_metrics

RUINED = 1.0  # nats per token over the start; no noise of a few held-out answers is as large
LAST = 0.1  # share of the steps whose mean loss stands for the end where nothing is held out
REPEATED = 2  # times that a row may stand in one batch


def check_outcome(path: Path, settings: Optimisation, kept_step: int) -> None:
    """Raise EngineError where the model after ``kept_step`` steps is ruined, by the metrics in
    ``path``.

    Its loss must be finite. A model that learns answers must not predict them much worse than
    before; one that predicts them no better is warned of. What a distilled arm loses is for its
    diagnosis.
    """
    measured = read_metrics(path)
    heldout = [
        line for line in measured if line["split"] == "heldout" and line["step"] <= kept_step
    ]
    losses = [float(line["token_loss"]) for line in heldout]
    where = "on held-out answers"
    if len(losses) < 2:
        losses, where = _of_training(measured), "on the answers that it trains on"
    if not losses:
        return
    change = f"from {losses[0]:.3g} to {losses[-1]:.3g} nats per token {where}"
    if not math.isfinite(losses[-1]):
        raise _ruined(path, f"its loss went {change}")
    if isinstance(settings, Objective) and settings.objective != "sft":
        return
    if losses[-1] > losses[0] + RUINED:
        raise _ruined(path, f"its loss rose {change}")
    if losses[-1] >= losses[0]:
        logging.getLogger(__name__).warning(
            "%s: training has not helped: its loss went %s; try another learning rate, or more "
            "steps",
            path.parent,
            change,
        )


def _of_training(measured: Sequence[Measurement]) -> list[float]:
    """The loss of the first step, which is the start's, and the mean of the last ones."""
    losses = [float(line["token_loss"]) for line in measured if line["split"] == "train"]
    if len(losses) < 2:
        return []
    last = losses[-max(1, round(LAST * len(losses))) :]
    return [losses[0], sum(last) / len(last)]


def _ruined(path: Path, what: str) -> EngineError:
    return EngineError(
        f"{path.parent}: training ruined the model: {what}",
        hint="lower its learning_rate, and make it again with `leyden run RECIPE --redo STAGE`",
    )


def warn_of_repeats(folder: Path, batch_size: int, num_rows: int) -> None:
    """Warn where every batch holds each row several times."""
    if batch_size > REPEATED * num_rows:
        logging.getLogger(__name__).warning(
            "%s: batch_size = %d with %d rows: every step trains on each row %.0f times; lower "
            "batch_size, or give more prompts",
            folder,
            batch_size,
            num_rows,
            batch_size / num_rows,
        )
