"""Write a first recipe: fields, lengths and batch sizes as the models and the prompts ask for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import tomli_w

from leyden.data.render import Renderer, render_all
from leyden.data.sources import ANSWER_NAMES, PROMPT_NAMES, Prompt, find_field, read_prompts
from leyden.data.tables import files_of, read_rows
from leyden.errors import ConfigError, LeydenError
from leyden.evals.code_tests import READERS
from leyden.evals.own_files import IDS, fitting_grader
from leyden.files import create_once
from leyden.models.hub import model_folder
from leyden.models.vocabulary import (
    check_same_vocabulary,
    load_sizes,
    load_tokenizer,
    vocabulary_size,
)
from leyden.models.weights import count_parameters, has_weights
from leyden.recipe.sampling import PromptFile
from leyden.recipe.schema import Template
from leyden.recipe.toml import load_recipe
from leyden.telemetry.progress import silent

LONGEST = 4096  # tokens of a completion, where the context allows; the paper's for rollouts
HELDOUT, TESTED = 64, 200  # prompts at most, of a tenth of all
BATCH, STEPS = 256, 150  # the paper's
TOP_K = 16
RATES = ((1e9, 8e-5, 2e-6), (1e8, 1e-4, 1e-5), (0, 3e-4, 1e-4))  # from this many parameters on
PLAIN = "{prompt}\n"
CHAT = 'kind = "chat"                         # the teacher\'s own chat template'
PLAIN_TEMPLATE = (
    'kind = "plain"                        # the teacher has no chat template\n'
    'plain = "{prompt}\\n"'
)
SAME_PROMPTS = """\
# The file repeats prompts, so that its rows cannot be cut in two: both parts are all of them. For
# the method's sake give two files of different prompts.
"""
NO_BENCHMARK = "# No benchmark: add [[evaluate.benchmarks]] with a file of problems and answers."
BENCHMARK = """[[evaluate.benchmarks]]               # the last rows, which nothing is trained on
name = "own"
grader = "{grader}"
max_new_tokens = LONGEST

[evaluate.benchmarks.problems]
{fields}"""


@dataclass(frozen=True)
class Facts:
    """What models and prompts say: the shortest context, the longest prompt, the student's
    parameters (0 where its weights are not here), and whether a chat template is there."""

    context: int
    longest: int
    vocabulary: int
    parameters: int
    chat: bool


@dataclass(frozen=True)
class Source:
    """A file of prompts with the fields that read it, and whether its rows have tests of programs.
    ``prompts`` are those without repeated ones."""

    file: Path
    fields: dict[str, object]
    prompts: list[Prompt]
    tested: bool = False


def write_first_recipe(teacher: str, student: str, prompts: Sequence[Path], out: Path) -> str:
    """Write a commented recipe to ``out``, and return its text.

    ``prompts`` is one file, which is cut in two, or one for SFT and one for distillation. Raises
    ConfigError or another LeydenError where no run could be made of them, or ``out`` exists.
    """
    if not 1 <= len(prompts) <= 2:
        raise ConfigError(
            f"--prompts: {len(prompts)} files", hint="give one, or one for SFT and one for OPD"
        )
    sources = [read_source(path) for path in prompts]
    facts = _facts(teacher, student, sources)
    text = _text(_place(teacher, out), _place(student, out), sources, facts, out)
    if not create_once(out, text.encode()):
        raise ConfigError(f"{out}: exists", hint="give another file with --out")
    try:
        load_recipe(out)
    except LeydenError:
        out.unlink()
        raise
    return text


def read_source(path: Path) -> Source:
    """Find the fields of a file by its first row, and read it."""
    file = files_of(path)[0]
    _, row = next(iter(read_rows(file)), (0, {}))
    fields: dict[str, object] = {
        name: found
        for name, names in (
            ("prompt_field", PROMPT_NAMES),
            ("answer_field", ANSWER_NAMES),
            ("id_field", IDS),
        )
        if (found := next((one for one in names if find_field(row, one) is not None), None))
    }
    bare = {name: field for name, field in fields.items() if name != "id_field"}
    prompts = read_prompts(PromptFile.model_validate({"file": str(path), **bare}), unique=False)
    ids = [find_field(one.row, str(fields["id_field"])) for one in prompts if "id_field" in fields]
    fields = fields if len(set(map(str, ids))) == len(prompts) else bare
    own = fields | {"deduplicate": True}
    if len({prompt.id for prompt in prompts}) < len(prompts):
        prompts = read_prompts(PromptFile.model_validate({"file": str(path), **own}))
        return Source(path, own, prompts)
    return Source(path, fields, prompts, any(row.get(name) for name in READERS))


def _facts(teacher: str, student: str, sources: Sequence[Source]) -> Facts:
    folders = [model_folder(place, weights=False) for place in (teacher, student)]
    tokenizers = [load_tokenizer(folder) for folder in folders]
    check_same_vocabulary(tokenizers[0], tokenizers[1], names=(teacher, student))
    sizes = [load_sizes(folder) for folder in folders]
    chat = bool(tokenizers[0].chat_template)
    template = Template(kind="chat") if chat else Template(kind="plain", plain=PLAIN)
    renderer = Renderer(tokenizers[0], template, folders[0])
    rendered = [p for s in sources for p in render_all(renderer, s.prompts, "", silent)]
    here = has_weights(folders[1])
    return Facts(
        context=min(context for _, context in sizes),
        longest=max(len(prompt.ids) for prompt in rendered),
        vocabulary=min(vocabulary_size(tokenizers[0]), *(rows for rows, _ in sizes)),
        parameters=count_parameters(folders[1]) if here else 0,
        chat=chat,
    )


def _place(model: str, out: Path) -> str:
    """A model as the recipe names it: relative to the recipe where it is near."""
    path = Path(model).expanduser()
    return _path(path, out) if path.is_dir() else model


def _path(path: Path, out: Path) -> str:
    home, whole = (Path(os.path.normpath(p)) for p in (out.absolute().parent, path.absolute()))
    return str(whole.relative_to(home)) if whole.is_relative_to(home) else str(whole)


def _text(teacher: str, student: str, sources: Sequence[Source], facts: Facts, out: Path) -> str:
    longest = min(LONGEST, facts.context - facts.longest)
    if longest < 1:
        raise ConfigError(
            f"the longest prompt has {facts.longest:,} tokens, and the models' context is "
            f"{facts.context:,}",
            hint="leave long prompts out of the file",
        )
    parts = _cut(sources, out)
    rows = {name: part.rows for name, part in parts.items()}
    sft_batch, batch = _batch(rows["sft"]), _batch(rows["opd"])
    known = facts.parameters or RATES[0][0]
    sft_rate, rate = next(rates for least, *rates in RATES if known >= least)
    values = {
        "out": out,
        "name": _name(out),
        "teacher": _toml(teacher),
        "student": _toml(student),
        "size": f"{facts.parameters:,}" if facts.parameters else "4B",
        "heldout": min(HELDOUT, rows["opd"] // 10),
        "longest_prompt": facts.longest,
        "sft_rows": rows["sft"],
        "sft": parts["sft"].toml,
        "opd_rows": rows["opd"],
        "opd": parts["opd"].toml,
        "template": CHAT if facts.chat else PLAIN_TEMPLATE,
        "longest": longest,
        "sft_steps": _steps(rows["sft"], sft_batch),
        "sft_batch": sft_batch,
        "sft_rate": sft_rate,
        "top_k": min(TOP_K, facts.vocabulary // 2),
        "steps": min(STEPS, _steps(rows["opd"], batch)),
        "batch": batch,
        "rate": rate,
        "benchmark": parts["test"].toml if "test" in parts else NO_BENCHMARK,
    }
    template = files("leyden.pipeline").joinpath("first_recipe.toml.in").read_text("utf-8")
    text = template.format(**values).replace("LONGEST", str(longest))
    if len(sources) == 1 and "deduplicate" in sources[0].fields:
        where = "[prompts.sft]"
        return text.replace(where, f"{SAME_PROMPTS}{where}", 1)
    return text


def _toml(value: object) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip()


@dataclass(frozen=True)
class Part:
    """A part of the rows, and the lines of the recipe that read it."""

    rows: int
    toml: str


def _cut(sources: Sequence[Source], out: Path) -> dict[str, Part]:
    """The parts for SFT and OPD, and for a benchmark where there are answers."""
    first, last = sources[0], sources[-1]
    again = "deduplicate" in last.fields  # then rows cannot be counted off
    total = len(last.prompts)
    answered = ("answer_field" in last.fields or last.tested) and not again
    tested = min(TESTED, total // 10) if answered else 0
    one = len(sources) == 1 and not again
    count = (total - tested) // 2 if one else len(first.prompts)
    start = count if one else 0
    rest = total - tested - start
    if min(count, rest) < 1:
        raise ConfigError(
            f"{first.file}: holds {len(first.prompts)} prompts, too few to cut in two",
            hint="give more prompts, or a second file",
        )
    parts = {
        "sft": Part(count, _fields(first, out, limit=count if one else None)),
        "opd": Part(rest, _fields(last, out, skip=start, limit=rest if tested else None)),
    }
    if tested:
        answers = [prompt.answer for prompt in last.prompts]
        grader = "code" if last.tested else fitting_grader(answers)[0]
        fields = _fields(last, out, skip=total - tested)
        parts["test"] = Part(tested, BENCHMARK.format(grader=grader, fields=fields))
    return parts


def _fields(source: Source, out: Path, *, skip: int = 0, limit: int | None = None) -> str:
    values = {"file": _path(source.file, out), **source.fields, "skip": skip, "limit": limit}
    return tomli_w.dumps({name: value for name, value in values.items() if value}).rstrip()


def _batch(rows: int) -> int:
    """A power of two: the paper's, or a quarter of few rows."""
    return min(BATCH, 2 ** max(0, (rows // 4).bit_length() - 1))


def _steps(rows: int, batch: int) -> int:
    return max(1, 3 * rows // batch)


def _name(out: Path) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "-" for c in out.stem.lower())
    return text.strip("-_")[:64] or "own"
