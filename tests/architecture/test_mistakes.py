"""Known mistakes of offline distillation: without our guard against each, a test fails.

Each row takes one guard out of a copy of the package and asks its tests to fail. A guard whose
tests still pass is not tested.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from conftest import ROOT

NUMERICS, UNIT, RUNS = "tests/numerics/", "tests/unit/", "tests/integration/"
EVALS = "tests/evals/"


@dataclass(frozen=True)
class Mistake:
    """A guard that stands once in ``file``. With ``instead`` in its place ``tests`` must fail."""

    name: str
    file: str
    guard: str
    instead: str
    tests: str


MISTAKES = [
    Mistake(
        "the student scored one token late",
        "data/batches.py",
        "predict_N=torch.from_numpy(place_L[completion_L] - 1)",
        "predict_N=torch.from_numpy(place_L[completion_L])",
        NUMERICS + "test_alignment.py",
    ),
    Mistake(
        "padding counted as context",
        "models/parts.py",
        "position_ids=batch.position_ids_BT",
        "position_ids=None",
        NUMERICS + "test_alignment.py",
    ),
    Mistake(
        "trained tokens are not the sampled ones",
        "data/scored.py",
        'return TokenSequence(row["prompt_ids"], row["completion_ids"], columns)',
        'return TokenSequence(row["prompt_ids"], row["completion_ids"][::-1], columns)',
        UNIT + "test_completions.py",
    ),
    Mistake(
        "the stop token is not part of the answer",
        "engines/stream.py",
        "Completion(np.array(ids, np.int32), np.array(logp, np.float32), reason)",
        "Completion(np.array(ids[:-1], np.int32), np.array(logp[:-1], np.float32), reason)",
        RUNS + "test_run.py::test_rollouts_end_in_the_stop_token_and_are_never_retokenised",
    ),
    Mistake(
        "the template changed between stages",
        "data/prompt_set.py",
        "if content != expected:",
        "if False:",
        UNIT + "test_completions.py",
    ),
    Mistake(
        "the teacher that answers reads prompts otherwise than the one that rendered",
        "run/teachers.py",
        "if part in RENDERING]",
        "if part in ()]",
        RUNS + "test_tampering.py::test_prompts_are_answered_only_as_they_were_rendered",
    ),
    Mistake(
        "the sampler's tempered log-probs taken for the reference's",
        "inference/score.py",
        'columns | _of_model("reference", reference)',
        'columns | _of_model("reference", reference) | {"logp_reference": row["logp_sampler"]}',
        RUNS + "test_variants.py::test_scores_are_at_temperature_one_however_rollouts_were_sampled",
    ),
    Mistake(
        "student logits tempered in training",
        "train/student.py",
        "token_logprobs(hidden_ND, head",
        "token_logprobs(hidden_ND / 0.8, head",
        NUMERICS + "test_alignment.py",
    ),
    Mistake(
        "the loss normalised per micro-batch",
        "train/objective.py",
        "num_tokens=totals.num_tokens",
        "num_tokens=len(loss_N)",
        NUMERICS + "test_splits.py",
    ),
    Mistake(
        "a packed row that leaks",
        "models/load.py",
        "if batch.attention_mask_BT is None:",
        "if False:",
        NUMERICS + "test_architectures.py",
    ),
    Mistake(
        "a soft cap without its slope",
        "logprobs.py",
        "head.scale * (1 - (logits_CV / head.cap).square())",
        "head.scale",
        NUMERICS + "test_logprobs.py",
    ),
    Mistake(
        "weights left out",
        "models/folder.py",
        "if not HARMLESS.search(name)",
        "if False",
        UNIT + "test_guards.py",
    ),
    Mistake(
        "a row that cannot leave the cache",
        "engines/batching.py",
        "if agrees(model, gap) or gap != gap:",
        "if True:",
        NUMERICS + "test_architectures.py",
    ),
    Mistake(
        "fused attention without its cap",
        "models/load.py",
        "and not fused_attention_is_right(model)",
        "and False",
        NUMERICS + "test_architectures.py",
    ),
    Mistake(
        "a missing score became 0.0",
        "data/scored.py",
        "missing := _zeros_of_no_model(logp_N, entropy_N)",
        "missing := 0",
        UNIT + "test_scores.py",
    ),
    Mistake(
        "scores that are not finite",
        "data/scored.py",
        "not np.isfinite(logp_N).all()",
        "False",
        UNIT + "test_scores.py",
    ),
    Mistake(
        "scores above zero",
        "data/scored.py",
        "(logp_N > ROUNDING).any()",
        "False",
        UNIT + "test_scores.py",
    ),
    Mistake(
        "scores of a model without weights",
        "data/scored.py",
        "len(logp_N) >= 2 and np.allclose(",
        "False and np.allclose(",
        UNIT + "test_scores.py",
    ),
    Mistake(
        "the scores are never checked before training",
        "data/scored.py",
        "check_score_row(score, num_tokens=num_tokens, vocab_size=self.vocab_size, where=where)",
        "pass",
        RUNS + "test_variants.py::test_training_refuses_scores_that_no_model_gives",
    ),
    Mistake(
        "teacher scores loaded but never used",
        "train/objective.py",
        "loss_N = _match(logp_N, topk_NK, columns.teacher, settings)",
        "loss_N = _match(logp_N, topk_NK, columns.reference or columns.teacher, settings)",
        NUMERICS + "test_alignment.py",
    ),
    Mistake(
        "forwards whose coefficient is zero",
        "train/objective.py",
        "logp_NK = student(batch, ids_NK)",
        "logp_NK = student(batch, ids_NK) + 0 * student(batch, ids_NK)",
        NUMERICS + "test_alignment.py::test_every_step_is_one_forward",
    ),
    Mistake(
        "log-softmax in bfloat16",
        "logprobs.py",
        "return torch.promote_types(dtype, torch.float32)",
        "return dtype",
        NUMERICS + "test_logprobs.py",
    ),
    Mistake(
        "logits of a whole batch in memory",
        "logprobs.py",
        "[slice(start, start + chunk) for start in range(0, num_tokens, chunk)]",
        "[slice(0, num_tokens)]",
        NUMERICS + "test_logprobs.py",
    ),
    Mistake(
        "tokens sampled, then not used",
        "data/scored.py",
        'rows = tuple(i for i, s in enumerate(rollouts.values("split")) if s == split)',
        'rows = tuple(i for i, s in enumerate(rollouts.values("split")) if s == split)[1:]',
        RUNS + "test_run.py::test_every_stored_token_is_trained",
    ),
    Mistake(
        "truncated answers kept as SFT targets",
        "data/completions.py",
        'if keep_truncated or reasons[i] == "stop"',
        "if True",
        UNIT + "test_completions.py",
    ),
    Mistake(
        "two teachers, and nobody noticed",
        "provenance/one_teacher.py",
        "if wrote.digest == scores.digest:",
        "if True:",
        RUNS + "test_tampering.py::test_another_teacher_may_not_score",
    ),
    Mistake(
        "a new SFT model under the old name",
        "run/graph.py",
        "self._check_model(job, record)",
        "pass",
        RUNS + "test_tampering.py",
    ),
    Mistake(
        "scores of another completion",
        "data/scored.py",
        'if not same or rollout[CHECKSUM] != score["completion_crc32"]:',
        "if False:",
        RUNS + "test_variants.py::test_scores_of_another_completion_and_foreign_ids_are_refused",
    ),
    Mistake(
        "resumed into a store of other rows",
        "store/writer.py",
        'if about["origin"] != origin or join_rows(planned) != join_rows(units):',
        "if False:",
        UNIT + "test_store.py",
    ),
    Mistake(
        "a program that leaves early passes its tests",
        "evals/asserts.py",
        "return whole and all(map(_is_answer, outcomes))",
        "return True",
        EVALS + "test_programs.py::test_what_is_wrong_is_said",
    ),
    Mistake(
        "programs keep root",
        "sandbox/inside/nursery.py",
        "os.setresuid(self.uid, self.uid, self.uid)",
        "pass",
        EVALS + "test_sandbox.py::test_the_self_test_passes_here",
    ),
    Mistake(
        "a program looks into the sandbox's first process",
        "sandbox/inside/nursery.py",
        "ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)",
        "None",
        EVALS + "test_sandbox.py::test_an_ordinary_user_is_contained_as_well",
    ),
    Mistake(
        "what a model thought aloud is its answer",
        "evals/verdict.py",
        "else parts[-1]",
        "else completion",
        EVALS + "test_maths.py",
    ),
    Mistake(
        "a shard that changes under its map is read on",
        "store/shard.py",
        "if mark != self.mark:",
        "if False:",
        "tests/unit/test_store.py",
    ),
    Mistake(
        "attention to chosen keys beyond their number",
        "models/context.py",
        'SELECTED = ("keep_window_size", "index_topk")',
        "SELECTED = ()",
        NUMERICS + "test_architectures.py",
    ),
    Mistake(
        "a percentage passes for its number",
        "evals/math_exact.py",
        "if not percent and abs(one - other)",
        "if False and abs(one - other)",
        EVALS + "test_maths.py",
    ),
    Mistake(
        "pass@k by the biased estimate",
        "evals/statistics.py",
        "return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)",
        "return 1.0 - (1.0 - successes / samples) ** k",
        EVALS + "test_statistics.py",
    ),
    Mistake(
        "different questions compared under one name",
        "evals/results.py",
        "if second.questions.get(p) == asked]",
        "if p in second.questions]",
        RUNS + "test_evaluate.py::test_what_is_not_the_same_problems_is_not_compared",
    ),
    Mistake(
        "training on what it evaluates goes unsaid",
        "evals/overlap.py",
        "counts[split] = len(overlaps)",
        "counts[split] = 0",
        RUNS + "test_evaluate.py::test_a_recipe_that_trains_on_what_it_evaluates_is_warned_of",
    ),
    Mistake(
        "the reference scored by the engine of the teacher",
        "inference/score.py",
        "open_reference(spec) if with_reference",
        "run.open_engine(spec) if with_reference",
        RUNS + "test_engine_seam.py",
    ),
    Mistake(
        "a unit committed before its last row has come",
        "inference/units.py",
        "if len(parts[u]) == len(units[u].rows):",
        "if parts[u]:",
        UNIT + "test_fill.py",
    ),
    Mistake(
        "a server's word for a log-prob that it cannot say",
        "engines/server_api.py",
        "if value <= UNSAID:",
        "if False:",
        RUNS + "test_server.py::test_an_answer_that_is_none_is_refused",
    ),
    Mistake(
        "log-probs of samples as the model has them, in place of the sampler's",
        "engines/server.py",
        "return float(np.abs(raw.logp - made.logp).mean()) < OTHER_MODEL / 10",
        "return False",
        RUNS
        + "test_server.py::test_log_probs_without_the_temperature_are_refused_where_there_is_one",
    ),
    Mistake(
        "another model behind the same address",
        "engines/server.py",
        "if not gap <= OTHER_MODEL:",
        "if False:",
        RUNS + "test_server.py::test_another_model_after_a_restart_is_noticed",
    ),
    Mistake(
        "an engine that contradicts itself",
        "inference/selftest.py",
        "if gap is not None and not gap <= limit:",
        "if False:",
        RUNS + "test_server.py::test_a_model_that_contradicts_itself_is_refused_before_anything_is"
        "_filled",
    ),
    Mistake(
        "what another model said before it was noticed",
        "engines/server.py",
        "                    held.append((number, Failed(str(result)) if failed else result))",
        "                    yield number, Failed(str(result)) if failed else result",
        RUNS + "test_server.py::test_what_another_model_said_is_never_committed",
    ),
    Mistake(
        "a worker commits into a store that was begun anew",
        "store/writer.py",
        "if self.begun != _identity(self.folder / STORE):",
        "if False:",
        UNIT + "test_claim.py::test_a_worker_of_a_store_that_was_begun_anew_commits_nothing",
    ),
    Mistake(
        "a top k of unlikely tokens",
        "engines/base.py",
        "if missing_T.any():",
        "if False:",
        RUNS + "test_server.py::test_a_top_k_of_other_tokens_is_refused_before_anything_is_filled",
    ),
    Mistake(
        "a kept evaluation that is damaged",
        "pipeline/kept.py",
        "        _check(place)\n",
        "        pass\n",
        RUNS + "test_evaluate_length.py::test_a_kept_evaluation_that_is_damaged_is_not_used",
    ),
    Mistake(
        "a lease whose owner has ended",
        "store/claim.py",
        'if owner.get("place") == here()["place"] and not _is_alive(owner["pid"]):',
        "if False:",
        UNIT + "test_claim.py",
    ),
    Mistake(
        "two workers on one unit",
        "store/claim.py",
        "number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)",
        "number = os.open(path, os.O_WRONLY | os.O_CREAT)",
        UNIT + "test_claim.py",
    ),
    Mistake(
        "prompts that join a batch end at another column",
        "engines/kv_cache.py",
        "buffer[rows : rows + more, :, stop - length : stop] = part",
        "buffer[rows : rows + more, :, self._start : self._start + length] = part",
        NUMERICS + "test_stream.py",
    ),
    Mistake(
        "a row that was read again goes on from its first token",
        "engines/stream.py",
        "return [*self.request.prompt_ids, *self.ids]",
        "return [*self.request.prompt_ids]",
        NUMERICS + "test_stream.py",
    ),
    Mistake(
        "an evaluation is kept for runs in another dtype",
        "pipeline/kept.py",
        "if record is None or record.intent != intent:",
        "if record is None or record.intent.digest != intent.digest:",
        RUNS + "test_evaluate_length.py::test_the_evaluation_of_a_model_is_kept_for_other_runs",
    ),
    Mistake(
        "tails of two kinds in one store",
        "store/writer.py",
        "if table.schema.metadata != self.schema.metadata:",
        "if False:",
        RUNS + "test_engine_seam.py::test_a_store_does_not_mix_two_kinds_of_tail",
    ),
    Mistake(
        "drift measured on rollouts that are not the reference's",
        "train/objective.py",
        "fresh = settings.refresh_every > 0 and not measuring",
        "fresh = False",
        RUNS + "test_refresh.py::test_a_penalty_against_the_reference_works_on_fresh_rollouts",
    ),
    Mistake(
        "tests run where the program can forge them",
        "evals/programs.py",
        "apart = judge_apart(tests, program, sandbox, limits)",
        "apart = None",
        EVALS + "test_asserts.py",
    ),
    Mistake(
        "a program reads its tests in the memory of its sandbox",
        "evals/asserts.py",
        'apart = sandbox.sibling("tests")',
        "apart = sandbox",
        EVALS + "test_asserts.py",
    ),
    Mistake(
        "a right program is lost where tests look at types",
        "evals/asserts.py",
        "if only_values_count(tests) else None",
        "if True else None",
        EVALS + "test_asserts.py",
    ),
    Mistake(
        "a helper of the tests is taken from the program",
        "evals/asserts.py",
        'own = set(_defined(_parsed(_prefix(tests)))) - {tests.get("function")}',
        "own = set()",
        EVALS + "test_asserts.py",
    ),
    Mistake(
        "a killed run is called running",
        "monitor/live.py",
        "RUNNING if held and not pulse.ended",
        "RUNNING if not pulse.ended",
        RUNS + "test_live.py",
    ),
    Mistake(
        "a dry run fetches weights",
        "models/hub.py",
        "files = [*SMALL_FILES, *[WEIGHTS] * weights]",
        "files = [*SMALL_FILES, WEIGHTS]",
        UNIT + "test_foresight.py",
    ),
    Mistake(
        "the best of many equal arms is called better",
        "evals/statistics.py",
        "tail = 0.025 / comparisons",
        "tail = 0.025",
        EVALS + "test_statistics.py",
    ),
    Mistake(
        "an edited checker leaves old verdicts in place",
        "evals/grading.py",
        "[hash_file(Path(path)), function]",
        "[path, function]",
        EVALS + "test_judges.py",
    ),
    Mistake(
        "white text on a light badge",
        "report/style.css.j2",
        "--right: #1b7444;",
        "--right: #36a269;",
        RUNS + "test_page.py",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name.replace(" ", "-"))
def test_a_guard_taken_out_is_missed(mistake, tmp_path):
    package = tmp_path / "leyden"
    shutil.copytree(ROOT / "src/leyden", package)
    path = package / mistake.file
    source = path.read_text()
    assert source.count(mistake.guard) == 1, f"{mistake.file} has no longer: {mistake.guard}"
    path.write_text(source.replace(mistake.guard, mistake.instead))
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*pytest_, "-m", "not slow", *mistake.tests.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout[-2000:]
