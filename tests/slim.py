"""Check an installed wheel by itself; `make wheel` runs this without the rest of the project."""

import sys
from importlib.resources import files

import leyden
from leyden.cli.main import COMMANDS
from leyden.recipe.benchmarks import known_benchmarks

for name in leyden.__all__:
    if name != "token_logprobs":  # the one public name that is about tensors
        getattr(leyden, name)
assert not {"torch", "transformers"} & sys.modules.keys(), "a light import loads torch"
assert known_benchmarks() and COMMANDS
for file in ("py.typed", "report/page.html.j2", "report/style.css.j2"):
    assert files("leyden").joinpath(file).is_file(), file
print("the wheel is whole:", leyden.__version__)
