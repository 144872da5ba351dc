# ruff: noqa: E501  # completions, one line each
"""A sound program is found in a completion, however the completion is written."""

import contextlib
import io
import sys

import pytest

from leyden.evals.extract import extract_program
from leyden.evals.fences import Block, code_blocks
from leyden.evals.verdict import final_part

BODY = "def total(xs):\n    return sum(xs)\n"
LINE = "print(sum(map(int, input().split())))\n"
PREFIX = 'from typing import List\n\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
BEGUN = {"kind": "asserts", "prefix": PREFIX, "function": "total", "tests": "check(total)"}
ASSERTS = {"kind": "asserts", "tests": "assert total([1, 2]) == 3"}
STDIO = {"kind": "stdio", "cases": [["1 2\n", "3\n"]]}

SHAPES = {
    "a tag": "```python\n{code}```",
    "no tag": "```\n{code}```",
    "tildes": "~~~python\n{code}~~~",
    "four backticks": "````python\n{code}````\nDone.",
    "a longer closing fence": "```python\n{code}`````\nDone.",
    "attributes": "``` python title=\"a.py\" {{1-2}}\n{code}```",
    "braces": "```{{.python .numberLines}}\n{code}```",
    "a tag in capitals": "```Python3\n{code}```",
    "an unknown tag": "```code\n{code}```",
    "words before the fence": "**Solution:** ```python\n{code}```",
    "a closing fence on the last line": "```python\n{stripped}```\nIt adds.",
    "no closing fence": "Here:\n```python\n{code}",
    "carriage returns": "```python\r\n{crlf}```\r\nDone.",
    "an item of a list": "1. Write this:\n\n   ```python\n{indented}   ```\n2. Run it.",
    "a fence behind a bullet": "- ```python\n{indented}  ```",
    "indented as a whole": "    ```python\n{indented}    ```",
    "within a block of Markdown": "````markdown\n# Answer\n```python\n{code}```\n````",
    "a code element": "<pre><code class=\"language-python\">\n{code}</code></pre>",
    "a plain code element": "So:\n<code>\n{code}</code>",
    "brackets": "[PYTHON]\n{code}[/PYTHON]",
    "nothing": "{code}",
    "a sentence before": "Here is the program:\n\n{code}",
    "a sentence after": "{code}\nThis adds all elements together.",
    "sentences around": "Sure! It's easy, we don't need more:\n\n{code}\nIt's done; that's all (really).",
    "a lone fence after": "{code}```",
    "a lone fence between": "{code}```\nThis adds them: it is short.",
    "output after": "```python\n{code}```\nOutput:\n```\n3\n```",
    "output after, no tags": "```\n{code}```\nFor the first sample it prints\n```\n3\n```",
    "another language before": "```bash\npython a.py\n```\n```python\n{code}```",
    "a first try before": "```python\nprint('no')\n```\nBetter:\n```python\n{code}```",
    "thinking before": "<think>```python\nx = 1\n```</think>```python\n{code}```",
    "other thinking before": "[THINK]maybe ```python\nx\n```[/THINK]\n```python\n{code}```",
}  # fmt: skip


def completion(shape: str, code: str) -> str:
    indented = "".join(f"   {line}\n" if line else "\n" for line in code.splitlines())
    return shape.format(
        code=code, stripped=code.rstrip(), crlf=code.replace("\n", "\r\n"), indented=indented
    )


def total_of(program: str | None) -> int:
    assert program is not None
    space: dict = {}
    exec(program, space)
    return space["total"]([1, 2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tests", [BEGUN, ASSERTS], ids=["a prompt's code", "asserts"])
def test_a_function_is_found(shape, tests):
    assert total_of(extract_program(completion(SHAPES[shape], BODY), tests)) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_script_is_found(shape, monkeypatch):
    program = extract_program(completion(SHAPES[shape], LINE), STDIO)
    assert program is not None
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2\n"))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(program, {"__name__": "__main__"})
    assert output.getvalue() == "3\n"


PARTS = {
    "imports before": "```python\nfrom functools import reduce\n```\nThen:\n```python\n"
    "def total(xs):\n    return reduce(lambda a, b: a + b, xs)\n```",
    "a helper before": "```python\nLIMIT = 9\ndef add(a, b):\n    return a + b\nprint(add(1, 2))\n```\n"
    "```python\ndef total(xs):\n    s = 0\n    for x in xs:\n        s = add(s, x)\n    return s\n```",
    "a helper of a helper": "```python\nimport math\n```\n```python\ndef f(xs):\n"
    "    return math.fsum(xs)\n```\n```python\ndef total(xs):\n    return int(f(xs))\n```",
    "a test after": f"```python\n{BODY}```\nTry it:\n```python\nassert total([1]) == 1\n```",
    "a future import": f"```python\nfrom __future__ import annotations\n{BODY}```",
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("tests", [BEGUN, ASSERTS], ids=["a prompt's code", "asserts"])
def test_a_program_in_parts_is_put_together(parts, tests):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert total_of(extract_program(PARTS[parts], tests)) == 3
    assert output.getvalue() == "", "what an earlier block runs is no part of the program"


@pytest.mark.parametrize(
    "text",
    ["I do not know how to add.", "```cpp\nint main(){}\n```", "", "<think>```python\nprint(1)"],
)
@pytest.mark.parametrize("tests", [BEGUN, ASSERTS, STDIO])
def test_no_program_is_none(text, tests):
    assert extract_program(text, tests) is None


def test_blocks_by_the_rules():
    text = "```py a=b\n```` \n````python\nx\n```\ny\n````\n~~~\n```\n~~~\n`a` ```b``` c\n"
    assert code_blocks(text) == [Block("python", "x\n```\ny\n"), Block("", "```\n")]


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("a</think>b", "b"),
        ("<thinking>a</thinking>b", "b"),
        ("<reasoning>a</reasoning> b", " b"),
        ("[THINK]a[/THINK]b", "b"),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", "b"),
        ("<think>a", ""),
        ("a b", "a b"),
    ],
)
def test_thinking_is_no_part_of_the_answer(text, final):
    assert final_part(text) == final
