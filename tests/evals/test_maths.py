"""Equal answers are right in any notation, and different answers are wrong."""

import pytest

from leyden.evals import grade_workers, grading
from leyden.evals.grade_workers import GradeRequest
from leyden.evals.grading import grade_completions
from leyden.evals.math_text import plain
from leyden.evals.maths import grade_math
from leyden.evals.verdict import RIGHT, TRUNCATED, UNPARSED, WRONG
from leyden.recipe.benchmarks import Benchmark, Evaluate, Problems

SAME = [
    ("72", r"so the total is \boxed{72}."),
    ("72", "72 clips"),
    ("18", "The answer is $18$."),
    (r"\frac{1}{2}", "The answer is $0.5$"),
    (r"\frac{14}{3}", r"\boxed{\dfrac{14}{3}}"),
    (r"\frac{3}{4}", r"\boxed{0.75}"),
    (r"\frac{3}{4}", r"\boxed{\frac{6}{8}}"),
    ("1,000", r"\boxed{1000}"),
    (r"11,\! 111,\! 111", r"\boxed{11111111}"),
    (r"\$32,\!348", r"\boxed{32348}"),
    (r"10\%", r"\boxed{10}"),
    (r"90^\circ", r"\boxed{90}"),
    (r"5.4 \text{ cents}", r"\boxed{5.4}"),
    (r"x \in [-2,7]", r"\boxed{[-2, 7]}"),
    (r"[-2,7]", r"\boxed{-2 \le x \le 7}"),
    (r"(-\infty, 2) \cup (3, \infty)", r"\boxed{(-\infty,2)\cup(3,\infty)}"),
    (r"\{1, 2, 3\}", r"\boxed{\{3, 2, 1\}}"),
    ("1,-2", r"\boxed{-2, 1}"),
    (r"1 \pm \sqrt{19}", r"\boxed{1 - \sqrt{19}, 1 + \sqrt{19}}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
    (r"\text{Evelyn}", r"\boxed{Evelyn}"),
    (r"\text{(C)}", r"\boxed{(C)}"),
    ("6 - 5i", r"\boxed{-5i + 6}"),
    ("p - q", r"\boxed{-q+p}"),
    (r"3\sqrt{13}", r"\boxed{\sqrt{117}}"),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
     r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}"),
    ("2", r"<think>It may be \boxed{3}, or \boxed{4}.</think> So \boxed{2}."),
    ("2", r"First \boxed{1}. No: \boxed{2}"),
    ("y = 2x + 3", r"\boxed{y=2x+3}"),
    ("5", r"\boxed{x = 5}"),
    (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\boxed{\frac{E_1 + 2 E_2}{3}}"),
    ("4.5e33", r"\boxed{4.5 \times 10^{33}}"),
    ("3e8", r"\boxed{300000000}"),
    ("1e-5", r"\boxed{0.00001}"),
    ("6.5e-2", r"\boxed{0.065}"),
    (r"1.6 \times 10^{3}", r"\boxed{1.6e3}"),
    ("-1./3", r"\boxed{-\frac13}"),
    ("np.arcsin(10/13)", r"\boxed{\arcsin(10/13)}"),
    (r"\frac{37}{4} m", r"\boxed{\frac{37m}{4}}"),
    (r"\frac{37}{4} m", r"\boxed{\frac{37}{4}}"),
    ("E_{1},E_{2}", r"\boxed{E_1, E_2}"),
    (r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}", r"\boxed{\frac{-1\pm\sqrt{17}}{2}}"),
    ("1,-2", r"The solutions are $\boxed{1}$ and $\boxed{-2}$."),
    (r"126^{\circ}", "\\boxed{126\u00b0}"),
    (r"\sqrt{3}", "\\boxed{\u221a3}"),
    (r"\frac12", "\\boxed{\u00bd}"),
    ("x^2", "\\boxed{x\u00b2}"),
    ("-5", "\\boxed{\u20135}"),
    ("5", r"\boxed{\boldsymbol{5}}"),
    ("5", r"\boxed{\textcolor{red}{5}}"),
    ("5", r"\boxed{\text{Answer: } 5}"),
    ("5", r"\boxed5"),
    ("5", r"\boxed{5} and so it is: \boxed{}"),
    (r"\emptyset", r"\boxed{\varnothing}"),
    (r"20 \mu\text{m}", r"\boxed{20}"),
    ("4343_6", r"\boxed{4343_{6}}"),
    ("4343_6", r"\boxed{4343}"),
    ("10_6", r"\boxed{11_5}"),
    (r"\log_2 8", r"\boxed{3}"),
    (r"\int_0^1 x\,dx", r"\boxed{\frac12}"),
    (r"S_{\max}=\frac34", r"\boxed{\frac{3}{4}}"),
    (r"\frac34", r"\boxed{S_{\max}=\frac{3}{4}}"),
    (r"\lim_{x\to0}\frac{\sin x}{x}", r"\boxed{1}"),
    (r"\max_{x}f(x)=3", r"\boxed{3}"),
    ("1/2", "So it is **1/2**"),
    ("7/3", "The answer is 2 1/3"),
    ("5.5", "\\boxed{5\xbd}"),
    ("11/2", "The answer is 5\xbd."),
    ("5\xbd", r"\boxed{5.5}"),
    (r"\frac13", r"\boxed{0.\overline{3}}"),
    (r"0.\overline{3}", r"\boxed{1/3}"),
    (r"\frac16", r"\boxed{0.1\overline{6}}"),
    (r"\frac13", r"\boxed{0.333...}"),
    (r"\frac13", r"\boxed{0.(3)}"),
    (r"\frac{1}{7}", r"\boxed{0.\overline{142857}}"),
    ("8098", r"\boxed{8.098 \times 10^3}"),
    (r"\frac{1234}{5}", r"\boxed{\frac{1,234}{5}}"),
    ("1000x+5", r"\boxed{1,000x+5}"),
    ("5", r"\boxed{5\ }"),
    (r"\arccos\frac13", r"\boxed{\operatorname{arccos}(1/3)}"),
    (r"60^\circ", r"\boxed{60\degree}"),
    (r"\sqrt{55}", r"\boxed{\sqrt55}"),
    (r"\frac12", r"\boxed{\sin 30^\circ}"),
    (r"\sin(30^\circ)", r"\boxed{0.5}"),
    (r"\cos 40^{\circ}", r"\boxed{\sin 50^\circ}"),
    (r"2\cos 20^\circ", r"\boxed{2\cos(20^\circ)}"),
    ("e^2", r"\boxed{\mathrm{e}^2}"),
    ("(0,1)", r"\boxed{0<e<1}"),
    ("(0,1)", r"\boxed{e \in (0,1)}"),
    ("0<e<1", r"\boxed{(0,1)}"),
    ("3,4", r"\boxed{3 \text{ or } 4}"),
    (r"(1,\infty)", r"\boxed{\{x \mid x>1\}}"),
    (r"\{x \mid x>1\}", r"\boxed{x>1}"),
    (r"(-\infty,\infty)", r"\boxed{\text{all real numbers}}"),
    (r"\mathbb{R}", r"\boxed{(-\infty,\infty)}"),
    (r"(-\infty,2)\cup(2,\infty)", r"\boxed{x \ne 2}"),
    ("(1,5)", r"\boxed{x>1 \text{ and } x<5}"),
    ("C", r"\boxed{C) 12}"),
    ("(C)", r"\boxed{C}"),
    ("C", r"\boxed{(C)~12}"),
    ("B", "The correct option is (B)"),
    ("2", r"<thinking>\boxed{3}</thinking>\boxed{2}"),
    ("2", r"[THINK]\boxed{5}[/THINK] so 2"),
    ("25", r"\boxed{25^\circ}"),
    (r"15^\circ", r"\boxed{15 \text{ degrees}}"),
    (r"25\%", r"\boxed{25}"),
    ("0.25", r"\boxed{25\%}"),
    (r"1\frac{1}{2}", r"\boxed{1.5}"),
    ("3.14", r"\boxed{\approx 3.14}"),
    (r"\frac{\sqrt{3}}{2}", r"\boxed{\frac{\sqrt3}{2}}"),
    ("x=3", r"\boxed{3}"),
    ("1/3", r"\boxed{0.3333333}"),
    (r"\frac{2}{3}", r"\boxed{0.6666667}"),
    (r"\sqrt{2}", r"\boxed{1.41421356}"),
    ("45", r"\boxed{45 \text{ minutes}}"),
    (r"2 \text{ ft } 6 \text{ in}", r"\boxed{2 \text{ ft } 6 \text{ in}}"),
    (r"\frac{3}{5}", r"**Answer:** $\frac{3}{5}$"),
    ("7", "1. First **step**. 2. The result is **7**."),
    ("7", "**Step 1**: we add. The answer is 7."),
    ("x+1", "So `x + 1`"),
    ("10", "The answer is **10**!"),
    ("3", "**3** apples"),
    ("4", r"\[\boxed{4}\]"),
    ("12", "So we need 12 cups, i.e. 4 1/2 each? The answer is 12."),
]  # fmt: skip
DIFFERENT = [
    ("72", r"\boxed{71}"),
    ("72", r"\boxed{72.5}"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{3}}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("(1,2)", r"\boxed{[1,2]}"),
    ("1,2", r"\boxed{1}"),
    (r"\{1, 2, 3\}", r"\boxed{\{1, 2\}}"),
    ("6 - 5i", r"\boxed{6 + 5i}"),
    (r"\text{Evelyn}", r"\boxed{Carla}"),
    (r"\text{(C)}", r"\boxed{(D)}"),
    ("2", r"\boxed{3} rather than 2"),
    ("2", r"</think> \boxed{}"),
    (r"x^2+2x+1", r"\boxed{x^2+2x}"),
    ("27", r"\boxed{2} \boxed{7}"),
    ("4343_6", r"\boxed{4343_9}"),
    ("40_9", r"\boxed{40_6}"),
    ("7e37", r"\boxed{37e7}"),
    (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\boxed{\frac{1}{3} E_{6}+\frac{2}{3} E_{2}}"),
    (r"v - \frac{E_{0}^{2}}{2}", r"\boxed{7 (v - \frac{E_{0}^{2}}{2})}"),
    ("4.5e33", r"\boxed{148.5e}"),
    ("1e-5", r"\boxed{e-5}"),
    (r"2.88 \times 10^{-19}", r"\boxed{3.1 \times 10^{-19}}"),
    ("0.000001", r"\boxed{0.0000012}"),
    ("1, 200", r"\boxed{1200}"),
    ("(1,200)", r"\boxed{(1200)}"),
    ("1,-2", r"$\boxed{1}$ and $\boxed{2}$"),
    ("-2", r"The solutions are $\boxed{1}$ and $\boxed{2}$."),
    ("277", r"\boxed{277_9}"),
    ("277", r"\boxed{277\%}"),
    (r"15^\circ", r"\boxed{15 \text{ rad}}"),
    ("277", r"\boxed{\ge 277}"),
    ("277", r"\boxed{274 = 277}"),
    ("277", r"\boxed{274} or \boxed{277}"),
    ("277", r"$\boxed{277}$ or $\boxed{274}$"),
    ("5", r"\boxed{5 \text{ hours } 30 \text{ minutes}}"),
    ("5", r"\boxed{5 hours 30 minutes}"),
    ("277", r"\boxed{277 \text{ or } 274}"),
    ("277", r"\boxed{> 277}"),
    ("277", r"\boxed{\neq 277}"),
    ("277", r"\boxed{-277}"),
    ("277", r"\boxed{277 \pm 3}"),
    ("5", r"\boxed{5!}"),
    ("1/3", r"\boxed{0.\overline{32}}"),
    ("5", r"\boxed{\sqrt5}"),
    ("277", r"\boxed{270 < 277}"),
    ("277", "The answer is at least 277%"),
    ("277", r"\boxed{277, 274}"),
    ("277", r"\boxed{277 = 274}"),
    ("3", r"\boxed{x>3}"),
    ("277", r"\boxed{\{277, 3\}}"),
    ("277", r"\boxed{[277, 280]}"),
    ("277", r"\boxed{\text{not } 277}"),
    ("277", r"\boxed{277i}"),
    ("277", r"\boxed{277x}"),
    ("277", r"\boxed{277 \text{ if } n>3}"),
    ("277", r"\boxed{277^{\circ}C - 3}"),
    (r"1+\frac{1}{3^{50}}", r"\boxed{1+\frac{1}{3^{49}}}"),
    (r"x=\frac{1}{3^{50}}", r"\boxed{x=\frac{1}{3^{49}}}"),
    (r"(\frac{1}{3^{50}}, 1)", r"\boxed{(\frac{1}{3^{49}}, 1)}"),
]


@pytest.mark.parametrize(("gold", "completion"), SAME)
def test_the_same_answer_is_right(gold, completion):
    verdict = grade_math(gold, completion)
    assert verdict.outcome == RIGHT, verdict
    assert verdict.why


@pytest.mark.parametrize(("gold", "completion"), DIFFERENT)
def test_another_answer_is_not(gold, completion):
    assert grade_math(gold, completion).outcome in (WRONG, UNPARSED)


@pytest.mark.parametrize("completion", ["", "   ", "I do not know.", "<think>\\boxed{2}</think>"])
def test_no_answer_is_unparsed(completion):
    assert grade_math("2", completion).outcome == UNPARSED


@pytest.mark.parametrize(
    "answer",
    [
        "0.(" + "9" * 5000 + ")", "1 " + "1" * 5000 + "/" + "9" * 5000, "0." + "3" * 9000 + "...",
        "12_{" + "9" * 5000 + "}", r"x_{ = \frac{}", r"\frac{1}{0} = 2",
    ],
)  # fmt: skip
def test_no_answer_takes_the_grader_down(answer):
    """Python refuses to read integers of thousands of digits, and sympy raises what it likes."""
    for completion in (f"\\boxed{{{answer}}}", f"The answer is {answer}", f"So **{answer}**"):
        assert grade_math("3", completion).outcome in (WRONG, UNPARSED)


def test_a_percentage_is_its_number_where_the_question_asks_for_percent():
    assert grade_math("25", r"\boxed{25\%}").outcome == WRONG
    assert grade_math("25", r"\boxed{25\%}", "What percent of them is red?").outcome == RIGHT


def test_plain_spelling():
    assert plain(r"$\text{ Evelyn }$.") == "evelyn"
    assert plain(r"\left( 3, \dfrac{\pi}{2} \right)") == r"(3,\frac{\pi}{2})"
    assert plain("1{,}000,000") == "1000000"
    assert plain("1,2") == "1,2"


BENCHMARK = Benchmark(name="m", problems=Problems(file="x", answer_field="answer"))
HANGS = r"\boxed{9^{9^{9^{9^{9}}}}}"


def answers(*pairs, finished=True):
    return [
        GradeRequest(f"m/{i}", {"answer": g}, text, finished) for i, (g, text) in enumerate(pairs)
    ]


def test_what_hangs_or_dies_is_wrong_and_the_others_are_judged(monkeypatch):
    """Answers that hang the grader stand between sound ones. Limits are short here."""
    monkeypatch.setattr(grade_workers, "MATH_SECONDS", 8)
    pairs = [SAME[i % len(SAME)] for i in range(20)]
    bad = [("3", HANGS), ("3", r"\boxed{(((((((((10!)!)!)!)!)!)!)!)!)}"), ("3", "\\boxed{" * 9999)]
    result = grade_completions(answers(*pairs[:10], *bad, *pairs[10:]), BENCHMARK, Evaluate())
    outcomes = [verdict.outcome for verdict in result]
    assert outcomes[:10] == outcomes[13:] == [RIGHT] * 10
    assert RIGHT not in outcomes[10:13]


def test_a_truncated_answer_is_never_right():
    (result,) = grade_completions(
        answers(("2", r"\boxed{2}"), finished=False), BENCHMARK, Evaluate()
    )
    assert result.outcome == TRUNCATED


def test_the_score_so_far_is_told():
    message = []
    grade_completions(
        answers(("2", r"\boxed{2}"), ("2", r"\boxed{3}")),
        BENCHMARK,
        Evaluate(),
        advance=lambda amount, note: message.append((amount, note)),
    )
    assert [amount for amount, _ in message] == [1, 1]
    assert message[-1][1] == "50.0% right"


def test_a_verdict_is_kept_and_an_edited_grader_forgets_it(monkeypatch):
    asked = []
    real = grading.grade_maths

    def counting(all_answers, waiting, settings):
        asked.append(len(waiting))
        return real(all_answers, waiting, settings)

    monkeypatch.setattr(grading, "grade_maths", counting)
    pairs = answers(("2", r"\boxed{2}"), ("2", r"\boxed{3}"), ("2", r"\boxed{2}"))
    pairs = [
        GradeRequest("m/0", a.problem, a.text, True) for a in pairs
    ]  # one problem: two equal answers
    first = grade_completions(pairs, BENCHMARK, Evaluate())
    again = grade_completions(pairs, BENCHMARK, Evaluate())
    assert first == again
    assert asked == [2, 0]
    monkeypatch.setattr(grading, "grader_version", lambda *a: "edited")
    assert grade_completions(pairs, BENCHMARK, Evaluate()) == first
    assert asked == [2, 0, 2]


def test_a_cache_that_cannot_be_used_costs_only_time(monkeypatch, tmp_path, caplog):
    (tmp_path / "leyden").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = grade_completions(answers(("2", r"\boxed{2}")), BENCHMARK, Evaluate())
    assert [v.outcome for v in result] == [RIGHT]
    assert "no cache of verdicts" in caplog.text
