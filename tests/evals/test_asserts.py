# ruff: noqa: E501  # programs and tables, one line each
"""Tests that are code run apart from the program, which can then not say that it is right."""

import pytest

from conftest import BACKEND, needs_bubblewrap
from leyden.evals.asserts import names_of_program
from leyden.evals.programs import expect, grade_program
from leyden.evals.verdict import FORGEABLE, RIGHT, WRONG
from leyden.sandbox.client import Limits, Sandbox

pytestmark = needs_bubblewrap
LIMITS = Limits(cpu_seconds=3, wall_seconds=8.0, memory_bytes=256 * 2**20)
EQUAL = "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
CHECK = "def check(candidate):\n    assert candidate([3, 1]) == 4\n    assert candidate([]) == 0\n"
PLUS = """import numpy as np
def is_floats(x): return isinstance(x, float) or isinstance(x, list) and all(map(is_floats, x))
def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp): atol = 1e-6
    if out != exp and atol != 0: assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else: assert out == exp
def check(candidate):
    inputs, results = [[[3, 1]], [[]]], [4, 0]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
check(total)
"""
TESTS = {
    "asserts": "assert total([3, 1]) == 4\nassert total([]) == 0",
    "check": CHECK + "check(total)",
    "plus": PLUS.replace("import numpy as np\n", "").replace("np.allclose", "all"),
}
SUM = "def total(xs):\n    return sum(xs)\n"


@pytest.fixture(scope="module")
def sandbox():
    assert not isinstance(BACKEND, str)
    result = Sandbox(BACKEND)
    yield result
    result.close()


def graded(tests: str, program: str, sandbox: Sandbox, **more):
    question = {"kind": "asserts", "tests": tests, **more}
    verdict = grade_program(question, f"```python\n{program}\n```", sandbox, LIMITS)
    prepared = expect(question, sandbox, LIMITS)
    assert grade_program(prepared, f"```python\n{program}\n```", sandbox, LIMITS) == verdict
    return verdict


@pytest.mark.parametrize("form", TESTS)
@pytest.mark.parametrize(
    "cheat",
    [
        EQUAL + "def total(xs): return Yes()",
        EQUAL + "class total:\n    def __new__(cls, xs): return Yes()",
        "class Int(int):\n    def __eq__(self, other): return True\ndef total(xs): return Int(9)",
        "import builtins\nbuiltins.sum = builtins.all = lambda *a: 4\ndef total(xs): return 9",
        "import builtins\nbuiltins.AssertionError = type('A', (Exception,), {})\ndef total(xs): return 9",
        "def total(xs):\n    import sys\n    f = sys._getframe()\n    while f: f.f_globals['check'] = lambda c: None; f = f.f_back\n    return 9",
        "import sys\nsys.modules['numpy'] = None\ndef total(xs): return 9",
        "def total(xs):\n    raise AssertionError('right')",
        "def check(candidate): pass\ndef assertion(*a): pass\ndef total(xs): return 9",
    ],
)  # fmt: skip
def test_a_program_cannot_say_that_it_is_right(form, cheat, sandbox):
    assert graded(TESTS[form], SUM, sandbox).outcome == RIGHT
    verdict = graded(TESTS[form], cheat, sandbox)
    assert verdict.outcome == WRONG, verdict


HONEST = {  # tests, and a program that they accept
    "state": ("assert f() == 1\nassert f() == 2", "n = 0\ndef f():\n    global n\n    n += 1\n    return n"),
    "in place": ("x = [3, 1]\nf(x)\nassert x == [1, 3]", "def f(x): x.sort()"),
    "dict in place": ("x = {'a': 1}\nf(x)\nassert x == {}", "def f(x): x.clear()"),
    "depends": ("y = f(2)\nassert f(y + 1) == 16", "def f(x): return x * x - (x == 5) * 9"),
    "keywords": ("assert f(1, b=2) == 3", "def f(a, b=0): return a + b"),
    "two functions": ("assert g(f(2)) == 5", "def f(x): return x * 2\ndef g(x): return x + 1"),
    "raises": ("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass", "def f(x):\n    if x < 0: raise ValueError('no')"),
    "views": ("assert f({'a': 1}) == {'a'}", "def f(d): return d.keys()"),
    "sorted": ("assert sorted(f(3)) == [0, 1, 2]", "def f(n): return set(range(n))"),
    "imports of the tests": ("import math\nassert f(4) == 2.0", "def f(x): return math.sqrt(x)"),
    "floats": ("assert abs(f(1) - 0.333) < 1e-2", "def f(x): return x / 3"),
    "none": ("assert f([]) is None", "def f(x): return None"),
    "tuples": ("assert f(1) == (1, [2])", "def f(x): return (x, [2])"),
    "nan": ("assert f() != f()", "def f(): return float('nan')"),
    "text": ("assert f('x').upper() == 'XX'", "def f(s): return s * 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_what_passed_beside_the_program_passes_apart(name, sandbox):
    tests, program = HONEST[name]
    verdict = graded(tests, program, sandbox)
    assert verdict.outcome == RIGHT and verdict.why == "all its tests pass", verdict
    broken = program.replace("return", "return None and").replace("x.", "[].").replace("raise ", "")
    if name not in ("none", "dict in place"):
        assert graded(tests, broken, sandbox).outcome == WRONG


OBJECTS = {  # tests that need what a program's process alone has
    "truth": ("assert f('a1')\nassert not f('b')", "import re\ndef f(s): return re.match('a1', s)"),
    "method": ("s = Stack()\ns.push(1)\nassert s.pop() == 1", "class Stack(list):\n    push = list.append"),
    "date": ("import datetime\nassert f() == datetime.date(2020, 1, 1)", "import datetime\ndef f(): return datetime.date(2020, 1, 1)"),
    "function": ("assert f(lambda x: x + 1) == 2", "def f(g): return g(1)"),
    "named": ("assert f().x == 1", "from collections import namedtuple\ndef f(): return namedtuple('P', 'x')(1)"),
    "generator": ("assert list(f()) == [1, 2]", "def f():\n    yield 1\n    yield 2"),
    "type": ("from collections import Counter\nassert isinstance(f(), Counter)", "from collections import Counter\ndef f(): return Counter()"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_tests_that_need_objects_run_beside_the_program_and_say_so(name, sandbox):
    tests, program = OBJECTS[name]
    verdict = graded(tests, program, sandbox)
    assert verdict.outcome == RIGHT and verdict.why == FORGEABLE, verdict
    wrong = program.replace("push", "no").replace("1", "7").replace("Counter()", "{}")
    assert graded(tests, wrong, sandbox).outcome == WRONG


def test_an_infinite_loop_and_an_error_are_told_as_before(sandbox):
    assert graded("assert f(1) == 1", "def f(x):\n    while True: pass", sandbox).why == (
        "out of CPU time (3 s)"
    )
    told = graded("assert f(1) == 1", "def f(x):\n    return x + ''", sandbox).why
    assert told.startswith("TypeError: ") and "line 2 of the program: return x + ''" in told


def test_helpers_of_the_prompt_are_not_taken_from_the_program(sandbox):
    """HumanEval/32 checks a root by a helper that the prompt defines."""
    prefix = "def poly(c, x):\n    return sum(a * x**i for i, a in enumerate(c))\n\ndef root(c):\n    '''r'''\n"
    question = {"prefix": prefix, "function": "root"}
    tests = "def check(candidate):\n    assert abs(poly([-2, 1], candidate([-2, 1]))) < 1e-6\ncheck(root)"
    assert names_of_program({"tests": tests, **question}) == ["root"]
    right = f"{prefix}    return -c[0] / c[1]"
    assert graded(tests, right, sandbox, **question).outcome == RIGHT
    cheat = f"{prefix}    return 0\ndef poly(c, x): return 0"
    assert graded(tests, cheat, sandbox, **question).outcome == WRONG


EITHER = {  # what passes beside the program passes, wherever it is tested
    "array": ("import numpy as np\nassert f(np.array([1, 2])) == 3", "def f(x): return x.sum()"),
    "counter": ("from collections import Counter\nassert f(Counter('aab')) == 'a'", "def f(c): return c.most_common(1)[0][0]"),
    "message": ("try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'positive'", "def f(x):\n    if x < 0: raise ValueError('positive')"),
    "own error": ("try:\n    f()\n    assert False\nexcept ValueError:\n    pass", "class Bad(ValueError): pass\ndef f(): raise Bad('x')"),
    "decimal": ("from decimal import Decimal\nassert f() == Decimal('0.1')", "from decimal import Decimal\ndef f(): return Decimal('0.1')"),
    "dates": ("import datetime\nassert f() == [datetime.date(2020, 1, 1)]", "import datetime\ndef f(): return [datetime.date(2020, 1, 1)]"),
    "text": ("assert str(f()) == 'P'", "class P:\n    def __str__(self): return 'P'\ndef f(): return P()"),
    "order": ("assert list(f({'b': 1, 'a': 2})) == ['b', 'a']", "def f(d): return d.keys()"),
    "keyword": ("x = [2, 1]\nf(xs=x)\nassert x == [1, 2]", "def f(xs): xs.sort()"),
    "nested": ("row = [3, 1]\nm = [row]\nf(m)\nassert row == [1, 3]", "def f(m): m[0].sort()"),
    "alias": ("x = [1]\nassert f(x, x) == [1, 9]", "def f(a, b):\n    a.append(9)\n    return b"),
    "same": ("x = [1]\nassert f(x) is x", "def f(x): return x"),
    "later": ("x = [1]\ny = f(x)\ny.append(9)\nassert x == [1, 9]", "def f(x): return x"),
    "printed": ("import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): f()\nassert b.getvalue() == 'hi\\n'", "def f(): print('hi')"),
    "constant": ("MOD = 7\nassert f(8) == 1", "def f(x): return x % MOD"),
    "global": ("assert f(1) == 10\nassert LIMIT == 10", "LIMIT = 10\ndef f(x): return LIMIT"),
    "seeded": ("import random\nrandom.seed(7)\na = random.random()\nrandom.seed(7)\nassert f() == a", "import random\ndef f(): return random.random()"),
    "filtered": ("assert [f(x) for x in (1, -1) if g(x)] == [1]", "def g(x): return x > 0\ndef f(x):\n    while x < 0: pass\n    return x"),
    "points": ("assert d(P(0, 0), P(3, 4)) == 5", "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef d(a, b): return ((a.x - b.x)**2 + (a.y - b.y)**2)**0.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", EITHER)
def test_no_right_program_is_lost(name, sandbox):
    tests, program = EITHER[name]
    assert graded(tests, program, sandbox).outcome == RIGHT


LEAK = """
import ctypes, re
def leak():
    for line in open('/proc/self/maps').read().splitlines():
        span, mode = line.split()[:2]
        if mode.startswith('rw') and 'vsyscall' not in line and 'stack' not in line:
            start, end = [int(x, 16) for x in span.split('-')]
            found = re.findall(rb'secretf\\((\\d+)\\) == (\\d+)', ctypes.string_at(start, end - start))
            yield from found
table = {int(a): int(b) for a, b in leak()}
def secretf(x): return table.get(x)
"""
PROMPT = "def poly(c, x):\n    return sum(a * x**i for i, a in enumerate(c))\n\ndef root(c):\n    # find a root\n"
SLY = {  # cheats that ran apart and passed, each found by a reviewer
    "memory": ("assert secretf(11) == 918273\nassert secretf(12) == 777123", LEAK, {}),
    "loop": ("for a, b in zip(map(f, [2, 3]), [1, 2]):\n    assert a == b", "def f(x): raise StopIteration", {}),
    "helper": (
        "assert abs(poly([-2, 1], root([-2, 1]))) < 1e-6",
        f"{PROMPT}    return 0\ndef poly(c, x): return 0",
        {"prefix": PROMPT, "function": "root"},
    ),
    "comment": (
        "try:\n    f()\nexcept ValueError as e:\n    assert 'positive' in str(e)",
        "def f(): raise ValueError('oops')  # positive",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SLY)
def test_sly_programs_are_wrong_every_time(name, sandbox):
    tests, program, more = SLY[name]
    for _ in range(3):  # what one sample left behind must not help the next
        assert graded(tests, program, sandbox, **more).outcome == WRONG
