"""Find the program in a completion: a code block, or the part of the text that is Python."""

import ast
import builtins
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from leyden.evals.fences import code_blocks
from leyden.evals.verdict import final_part

Tests = dict[str, Any]
NEXT_PART = re.compile(r"\n(?:class |def |#|@|if |print|```)")  # HumanEval's stop sequences
PYTHON = ("python", "python3", "py", "py3", "ipython", "ipython3", "cpython", "sage")
OTHER = {  # what blocks are called that hold no program of ours
    "bash", "sh", "shell", "console", "terminal", "text", "txt", "plaintext", "output", "out",
    "json", "yaml", "toml", "xml", "html", "css", "sql", "latex", "tex", "math", "diff", "pycon",
    "c", "cpp", "c++", "cxx", "cs", "csharp", "c#", "java", "kotlin", "scala", "swift", "go",
    "rust", "rs", "js", "javascript", "ts", "typescript", "jsx", "tsx", "php", "ruby", "rb", "perl",
    "r", "julia", "haskell", "hs", "lua", "dart", "matlab", "pascal", "fortran", "asm", "lisp",
    "input", "stdin", "stdout", "log", "makefile", "dockerfile", "ini", "csv", "mermaid",
}  # fmt: skip
FUTURE = re.compile(r"(?m)^from __future__ import [^\n]*\n?")
READS = re.compile(r"\b(?:input\s*\(|stdin|open\s*\(\s*0|fileinput|os\.read)")
PRINTS = re.compile(r"\b(?:print\s*\(|stdout)")
BEGINS = re.compile(
    r"\s*(?:from|import|def|async def|class|@|if|for|while|with|try|print|[A-Za-z_]\w*\s*(?:=|\())"
)
MOST_LINES = 1000  # of a text without a block, in which Python is looked for
PARSING = threading.Lock()  # two threads in ast.parse break each other on 3.11 (cpython 106905)


def extract_program(completion: str, tests: Tests) -> str | None:
    """The program in a completion, or None.

    It is the last code block that defines the tested function, or that reads input where nothing
    is called. Without a block it is the part of the text that is Python. Imports and helpers that
    it lacks are taken from earlier blocks. The beginning of a program that the prompt gave, as
    HumanEval's does, is put before it.
    """
    text, function = final_part(completion), tests.get("function")
    prefix, blocks = tests.get("prefix", ""), _python_blocks(text)
    if any(_parses(code) or _goes_on(code, prefix) for code in blocks):
        return _from_blocks(blocks, tests, prefix)
    whole = re.sub(r"(?m)^[ \t]*(?:`{3,}|~{3,})[ \t]*\w*[ \t]*$", "", text)  # a fence alone
    if _parses(whole) and (not function or _defines(whole, function)):
        return _after(prefix, whole)
    begun = next((t for t in (whole, NEXT_PART.split(whole)[0]) if _parses(prefix + t)), None)
    if prefix and begun is not None and begun.strip():
        return prefix + begun
    found = next((code for code in _python_in(whole) if _fits(code, tests)), None)
    if found is not None:
        return _after(prefix, found)
    return _from_blocks(blocks, tests, prefix) if blocks else None


def _from_blocks(blocks: list[str], tests: Tests, prefix: str) -> str:
    place = _chosen(blocks, tests, prefix)
    return _after(prefix, _with_helpers(blocks[:place], blocks[place], prefix))


def _python_blocks(text: str) -> list[str]:
    """Blocks tagged as Python; without any, those of no known language, which may show output."""
    blocks = code_blocks(text)
    tagged = [code for language, code in blocks if language in PYTHON]
    return tagged or [code for language, code in blocks if language not in OTHER]


def _chosen(blocks: list[str], tests: Tests, prefix: str) -> int:
    """The place of the block that is the program."""
    names = _tested_names(tests)
    defining = [i for i, code in enumerate(blocks) if any(_defines(code, name) for name in names)]
    going_on = [i for i, code in enumerate(blocks) if _goes_on(code, prefix)]
    if defining or going_on or names:
        return (defining or going_on or [len(blocks) - 1])[-1]
    whole = [i for i, code in enumerate(blocks) if _parses(code)]
    reading = [i for i in whole if READS.search(blocks[i])]
    printing = [i for i in whole if PRINTS.search(blocks[i])]
    return (reading or printing or whole or [len(blocks) - 1])[-1]


def _with_helpers(earlier: list[str], program: str, prefix: str) -> str:
    """The program after the definitions of earlier blocks that it needs and does not make."""
    if not earlier or not _parses(program):
        return program
    known = _names_made(program) | _names_made(prefix) | set(dir(builtins))
    needed, taken = _names_read(program) - known, []
    for code in reversed(earlier):
        made = _names_made(code)
        if needed & made:
            taken.insert(0, _definitions(code))
            needed = (needed | _names_read(taken[0])) - made - known
    return "\n".join([*taken, program])


def _definitions(code: str) -> str:
    """The imports, functions, classes and assignments of a block, without what it runs."""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = _tree_or_none(code)
    nodes = [] if tree is None else tree.body
    return "\n".join(
        ast.unparse(node) for node in nodes if isinstance(node, (*kept, ast.Assign, ast.AnnAssign))
    )


def _names_made(code: str) -> set[str]:
    """Names that the code imports, defines or assigns, wherever it does."""
    tree = _tree_or_none(code)
    names: set[str] = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def _names_read(code: str) -> set[str]:
    tree = _tree_or_none(code)
    nodes = ast.walk(tree) if tree else ()
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _python_in(text: str) -> Iterator[str]:
    """Parts of a text that are Python, from each line that could begin one, the longest first."""
    lines = text.split("\n")[:MOST_LINES]
    number = 0
    while number < len(lines):
        end = len(lines) if BEGINS.match(lines[number]) else number
        while end > number:
            wrong = _wrong_line("\n".join(lines[number:end]))
            if wrong is None:
                yield "\n".join(lines[number:end]) + "\n"
                break
            end = number + max(0, min(wrong - 1, end - number - 1))
        number = max(end, number + 1)


def _fits(code: str, tests: Tests) -> bool:
    """Whether a part of a text can be the program that the tests ask for."""
    if names := _tested_names(tests):
        return any(_defines(code, name) for name in names)
    return READS.search(code) is not None or PRINTS.search(code) is not None


def _tested_names(tests: Tests) -> list[str]:
    """The tested function, or those that asserts call: it is among them."""
    if function := tests.get("function"):
        return [function]
    if tests["kind"] != "asserts":
        return []
    calls = (node for node in ast.walk(_syntax_tree(tests["tests"])) if isinstance(node, ast.Call))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def _goes_on(code: str, prefix: str) -> bool:
    """Whether the code only goes on from the beginning that the prompt gave."""
    return bool(prefix) and code[:1].isspace() and not _parses(code)


def _defines(code: str, function: str) -> bool:
    pattern = rf"^\s*(?:async\s+)?def\s+{re.escape(function)}\b|^class\s+Solution\b"
    assigned = rf"^{re.escape(function)}\s*="
    return bool(re.search(f"{pattern}|{assigned}", code, re.MULTILINE))


def _after(prefix: str, code: str) -> str:
    """The code after the beginning that the prompt gave, whose imports and helpers it may use."""
    if not prefix:
        return code
    if not _parses(code) and _parses(prefix + code):
        return prefix + code
    if not _parses(prefix):
        return code
    futures = "".join(FUTURE.findall(code))  # these must come first
    return f"{futures}{prefix}\n\n{FUTURE.sub('', code)}"


def _syntax_tree(code: str) -> ast.Module:
    with PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubtful escapes in somebody else's program
        return ast.parse(code)


def _tree_or_none(code: str) -> ast.Module | None:
    try:
        return _syntax_tree(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parses(code: str) -> bool:
    tree = _tree_or_none(code)
    return tree is not None and bool(tree.body)


def _wrong_line(code: str) -> int | None:
    """The number of the line at which the code stops being Python; None where it is Python."""
    try:
        _syntax_tree(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None
