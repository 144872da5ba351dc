"""The examples of the Python guide run as they stand."""

import re

from conftest import ROOT, write_small_recipe
from leyden.store.reader import is_sealed

GUIDE = ROOT / "docs/guides/python.md"


def test_the_examples_of_the_python_guide_run(tmp_path, monkeypatch, capsys):
    text = write_small_recipe(tmp_path).read_text()
    (tmp_path / "my.toml").write_text(text.replace("arms.tail]", "arms.topk_tail]"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block, GUIDE.name, "exec"), names)
    assert names["loss_N"].shape == (names["N"],) and names["model"].lm_head.weight.grad.any()
    assert is_sealed(tmp_path / "runs/other/teach")
    printed = capsys.readouterr().out
    assert "topk_tail on sums: " in printed and "teacher " in printed
