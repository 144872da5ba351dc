"""The report in a real browser, and with text of a hostile model."""

import base64
import hashlib
import re
import shutil
import subprocess

import pytest

from leyden.cli.main import run
from leyden.report.charts import Line, histogram, interval_chart, line_chart
from leyden.report.page import write_report
from leyden.run.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(finished):
    return (finished / "run" / "report.html").read_text()


def test_the_page_shows_every_model_stage_and_arm(page):
    for word in ("teach", "rollout", "score", "sampled", "control", "one teacher: verified"):
        assert word in page
    assert page.count("<svg") > 12 and page.count('class="completion"') == 12


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"\ssrc\s*=|\shref\s*=\s*.(?!#)|url\(|@import|<link", page)
    assert page.count("<script>") == 1


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (["run", "run/evaluate/tail"], "a report is about one kind"),
        (["run/teach"], "run/teach: is neither a run nor an evaluation"),
        (["nowhere"], "nowhere: is neither a run nor an evaluation"),
    ],
)
def test_what_has_no_report_is_refused(finished, capsys, folders, sentence):
    assert run(["report", *(str(finished / folder) for folder in folders)]) == 1
    assert sentence in capsys.readouterr().err


def test_an_evaluation_that_is_not_finished_has_no_report(copied, capsys):
    folder = copied / "run/evaluate/tail"
    (folder / "record.json").unlink()
    assert run(["report", str(folder)]) == 1
    assert "tail: the evaluation is not finished" in capsys.readouterr().err


def test_what_a_model_writes_is_escaped(finished, monkeypatch):
    """The tokenizer decodes to markup, and none of it may reach the page as markup."""
    from leyden.report import collect

    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    real = collect.load_tokenizer

    def load(folder):
        tokenizer = real(folder)
        tokenizer.decode = lambda *a, **k: hostile
        return tokenizer

    monkeypatch.setattr(collect, "load_tokenizer", load)
    out = write_report([Run.open(finished / "run")], finished / "hostile.html")
    html = out.read_text()
    assert "alert(1)" in html
    assert html.count("<script") == 1 and "<img" not in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"script-src &#39;sha256-{digest}&#39;" in html or f"script-src 'sha256-{digest}'" in html
    )


def test_several_runs_stand_side_by_side(finished, tmp_path):
    out = tmp_path / "two.html"
    folder = str(finished / "run")
    assert run(["report", folder, folder, "--out", str(out)]) == 0
    html = out.read_text()
    assert html.count(">small</h1>") == 2
    assert "2 runs side by side" in html and html.count("verified</span></td>") >= 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_lays_out_every_chart(finished, tmp_path):
    """In Chromium without network, every chart has a size and the page does not overflow."""
    page = (finished / "run" / "report.html").read_text()
    probe = """<script>addEventListener('load', () => {
      const sizes = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
      document.title = [sizes.length, Math.min(...sizes.map(s => s.height)),
        document.documentElement.scrollWidth - innerWidth].join('|'); });</script></body>"""
    probed = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page)
    file = tmp_path / "probed.html"
    file.write_text(probed.replace("</body>", probe))
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    dumped = subprocess.run(
        [*command, "--window-size=1240,900", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    title = re.search(r"<title>(.*?)\|(.*?)\|(.*?)</title>", dumped)
    assert title is not None
    charts, smallest, overflow = title.groups()
    assert int(charts) == page.count("<svg")
    assert float(smallest) > 40
    assert float(overflow) <= 0


def test_charts_place_values_where_they_belong():
    svg = str(line_chart([Line("a", [(0, 1.0), (10, 3.0)], 3)], label="x"))
    points = re.search(r'points="(\S+) (\S+)"', svg)
    assert points is not None
    first, last = points.groups()
    assert float(first.split(",")[0]) < float(last.split(",")[0])
    assert float(first.split(",")[1]) > float(last.split(",")[1])  # up is up
    assert "a: 3 at step 10" in svg


def test_constant_and_empty_curves_do_not_divide_by_zero():
    assert "polyline" in line_chart([Line("a", [(0, 2.0), (1, 2.0)], 0)], label="x")
    assert line_chart([Line("a", [], 0)], label="x") == ""
    assert interval_chart([("a", 0.0, 0.0, 0.0, 1)], label="x", percent=False)
    assert "rect" in histogram([5, 5, 5], label="x", colour=1)


def test_intervals_are_told_in_words_too():
    svg = interval_chart([("<m>", 0.5, 0.4, 0.6, 2)], label="x")
    assert "&lt;m&gt;: 50.0% [40.0%, 60.0%]" in svg
