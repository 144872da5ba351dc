"""The report as people use it: wide and narrow, by mouse, keyboard and touch, in the dark."""

import shutil
from collections.abc import Iterator

import pytest

from leyden.evals.verdict import LETTERS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
CONTRAST = """() => {
  const rgb = (text) => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => rgb(getComputedStyle(e).backgroundColor);
  const behind = (e) => e === null ? ground(document.body).slice(0, 3)
    : over(ground(e), behind(e.parentElement));
  const worst = { ratio: 99, text: '' };
  for (const e of document.querySelectorAll('main *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest('svg') || !e.checkVisibility()) continue;
    const under = behind(e), ink = over(rgb(getComputedStyle(e).color), under);
    const [a, b] = [light(under), light(ink)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio)
      Object.assign(worst, { ratio, text: `${e.className}: ${e.textContent}` });
  }
  return worst; }"""
CUT = """() => [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility()
  && !e.closest('svg') && !e.closest('.wide') && !e.closest('.heat')
  && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1))
  .map((e) => `${e.tagName}.${e.className}`)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, finished):
    """Open the report in a window of that size; its errors are errors of the test."""
    pages = []

    def open_page(size=WIDE, **options):
        page = browser.new_page(viewport=size, **options)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.goto((finished / "run" / "report.html").as_uri())
        pages.append((page, problems))
        return page

    yield open_page
    for page, problems in pages:
        page.close()
        assert problems == []


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1440", "390"])
def test_nothing_is_cut(opened, size):
    page = opened(size)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    for details in page.locator("details").all()[:12]:
        details.evaluate("d => { d.open = true; }")
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_that_can_be_read(opened, scheme):
    page = opened(color_scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst


def test_the_page_has_landmarks_and_its_links_lead_somewhere(opened):
    page = opened()
    assert page.get_by_role("main").count() == 1
    links = page.get_by_role("navigation").get_by_role("link").all()
    assert len(links) >= 6
    for link in links:
        assert page.locator(link.get_attribute("href")).count() == 1


def test_the_page_says_what_was_run(opened):
    text = opened().locator("main").inner_text()
    for words in ("teacher", "models/base", "reference (after SFT)", "student, arm tail"):
        assert words in text
    for words in ("topk_tail", "0.0003", "refreshed every 3 steps", "Jobs finished from 20"):
        assert words in text
    page = opened()
    page.get_by_text("The recipe, with every field").click()
    assert "learning_rate = 0.0003" in page.locator(".recipe").inner_text()


def test_answers_are_filtered_searched_and_compared(opened, finished):
    page = opened()
    first = page.locator(".browser").first
    problems, total = first.locator(".problem"), first.locator(".problem").count()
    assert first.locator(".found").inner_text() == f"{total} of {total} problems"
    problem = problems.first
    problem.locator("summary").click()
    models = problem.locator(".answer b").all_inner_texts()
    assert len(set(models)) == 7, "every model's answer to one problem stands side by side"
    outcomes, by_model = first.get_by_role("combobox").all()
    by_model.select_option("base")
    assert set(problem.locator(".answer:visible b").all_inner_texts()) <= {"base"}
    for outcome in LETTERS:
        if outcomes.locator(f"option[value={outcome}]").count():
            outcomes.select_option(outcome)
            kept, fitting = first.locator(".problem:not([hidden])"), f"[data-outcome={outcome}]"
            having = page.locator(f".answer{fitting}[data-model=base]")
            assert (
                kept.count()
                == problems.filter(has=having).count()
                == kept.filter(has=having).count()
            )
    outcomes.select_option("")
    by_model.select_option("")
    name = problem.locator("summary .mono").inner_text()
    first.get_by_label("search").fill(name)
    assert problem.is_visible() and first.locator(".problem:not([hidden])").count() < total
    first.get_by_label("search").fill("no such words at all")
    assert first.locator(".found").inner_text() == f"0 of {total} problems"
    first.get_by_label("search").fill("")
    first.get_by_label("only where models differ").check()
    assert first.locator(".problem:not([hidden]):not([data-differ])").count() == 0


def test_a_tokens_numbers_are_had_by_keyboard(opened):
    page = opened()
    completion = page.locator(".completion").first
    completion.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    told = completion.locator(".numbers").inner_text()
    assert "teacher" in told and "advantage" in told
    page.keyboard.press("End")
    assert completion.locator(".numbers").inner_text() != told
    page.keyboard.press("Home")
    assert completion.locator(".numbers").inner_text() == told


def test_a_tokens_numbers_are_had_by_touch(opened):
    page = opened(NARROW, has_touch=True)
    completion = page.locator(".completion").nth(1)
    completion.locator(".tokens span").nth(1).tap()
    assert "reference" in completion.locator(".numbers").inner_text()


def test_the_token_section_has_a_size_budget(finished, monkeypatch, tmp_path):
    from leyden.report import collect
    from leyden.report.page import write_report
    from leyden.run.run import Run

    whole = write_report([Run.open(finished / "run")], tmp_path / "whole.html").read_text()
    monkeypatch.setattr(collect, "TOKEN_BUDGET", 48)
    short = write_report([Run.open(finished / "run")], tmp_path / "short.html").read_text()
    assert " tokens ...]" in short and " tokens ...]" not in whole
    assert short.count("&#10;teacher ") <= 48 < whole.count("&#10;teacher ")
