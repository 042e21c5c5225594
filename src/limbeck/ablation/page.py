"""What an experiment came to, to read: verdict, scores with intervals, contrasts, and all it takes to run it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from limbeck.ablation import wording
from limbeck.ablation.experiments import BIT_LOSS, BITS, HELD_OUT, RANK, TOPICS, after
from limbeck.ablation.results import ArmResult, Results
from limbeck.ablation.sections import Page, Section, machine_facts, write
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Headline, Table
from limbeck.evaluation.curves import said
from limbeck.evaluation.plots import KINDS, Chart, Dots, Series, dot_chart, line_chart
from limbeck.evaluation.statistics import mean_interval

_MEANING = {
    HELD_OUT: "nDCG@10 of the run's own held-out queries",
    BITS: "the same at one bit a dimension",
    BIT_LOSS: "the share of it that is lost at one bit, better when smaller",
    RANK: "of the held-out documents' vectors, in dimensions; small = collapsed",
    TOPICS: "V-measure of the run's own held-out labelled texts",
}
_WIDTH = re.compile(rf"{HELD_OUT}, (\d+) dims")  # see `experiments.at_dims`


def write_experiment_page(results: Results, out: Path) -> None:
    """Write `out`/index.html, `out`/report.md and `out`/plot.svg."""
    write(_page(results), out)


def write_experiment_report(results: Results, out: Path) -> None:
    """Write `out`/report.md and `out`/plot.svg."""
    write(_page(results), out, html=False)


def _page(results: Results) -> Page:
    sections = [
        _scores(results),
        _contrasts(results),
        _further(results),
        Section(
            "fixed",
            "What was held fixed",
            f"Recipe {results.recipe}: {results.description}",
            items=[f"{text}." for text in results.fixed],
        ),
        _arms(results),
        _leaks(results),
    ]
    if results.warnings:
        sections.append(Section("warnings", "Warnings", items=[f"{text}." for text in results.warnings]))
    counts = {name: fmt.count(count) for name, count in results.counts.items()}
    return Page(
        name=results.name,
        subject=results.recipe,
        created=results.created,
        headline=Headline(f"{results.name}: ", results.status, ""),
        said=[results.verdict, *wording.reasons(results)],
        about=[f"Question: {results.question}", f"The paper's claim: {results.claim}."],
        sections=[section for section in sections if section],
        commands=results.commands,
        made={
            "Run": {
                "recipe": results.recipe,
                "date": results.created[:10],
                "seeds": ", ".join(map(str, results.seeds)),
                "hours of computing": f"{results.hours:g}",
                **counts,
            },
            "Machine": machine_facts(results.machine),
            "Versions": results.versions,
        },
    )


# ------------------------------------------------------------------------------------------- scores


def _scores(results: Results) -> Section:
    metrics = [m for m in results.metrics if any(m in arm.scores for arm in results.arms)]
    columns = [[arm.scores.get(metric, []) for arm in results.arms] for metric in metrics]
    best = {(i, j + 1) for j, metric in enumerate(metrics) for i in wording.best(metric, columns[j])}
    rows = [
        [arm.name, *(wording.shown(m, column[i]) for m, column in zip(metrics, columns, strict=True))]
        for i, arm in enumerate(results.arms)
    ]
    rows += [
        [name, *(wording.shown(m, [scores[m]] if m in scores else []) for m in metrics)]
        for name, scores in results.references.items()
    ]
    meant = [f"“{metric}”: {_meaning(metric, results.units)}" for metric in metrics]
    meant = [text for text in meant if not text.endswith(": ")]
    chart = _curves(results) or _by_dims(results) or _dots(results)
    return Section(
        "scores",
        "Scores",
        f"{_means_of(results)}, the best arm in bold. {'; '.join(meant)}.",
        chart=chart,
        pictured=True,
        table=Table(["arm", *metrics], rows, best=frozenset(best)),
        folded=_curve_table(results),
        wrapped=True,
    )


def _further(results: Results) -> Section | None:
    """A row a score: there may be many more of them than arms."""
    curve = {after(i + 1, len(c)) for arm in results.arms for c in arm.curves for i in range(len(c))}
    names = dict.fromkeys(name for arm in results.arms for name in arm.scores)
    rows: list[list[str]] = []
    best = set[tuple[int, int]]()
    for name in names:
        if name in results.metrics or name in curve:
            continue
        values = [arm.scores.get(name, []) for arm in results.arms]
        best |= {(len(rows), i + 1) for i in wording.best(name, values)}
        values += [[scores[name]] if name in scores else [] for scores in results.references.values()]
        rows.append([name, *(wording.shown(name, v) for v in values)])
    if not rows:
        return None
    head = ["score", *(arm.name for arm in results.arms), *results.references]
    table = Table(head, rows, best=frozenset(best))
    return Section("further", "Further scores", f"{_means_of(results)}, the best arm in bold.", table=table)


def _means_of(results: Results) -> str:
    if len(results.seeds) == 1:
        return f"Scores of one seed, {results.seeds[0]}, so without intervals"
    return f"Means over {len(results.seeds)} seeds ± half of their 95% intervals (Student's t)"


def _meaning(metric: str, units: Mapping[str, str]) -> str:
    return _MEANING.get(metric) or ("with vectors cut" if _WIDTH.fullmatch(metric) else units.get(metric, ""))


def _contrasts(results: Results) -> Section:
    rows = [
        [
            wording.arms(a),
            wording.metric(a),
            wording.needed(a),
            wording.estimate(a),
            wording.interval(a),
            wording.p_value(a.p_value),
            wording.p_value(a.p_holm),
            a.holds,
            f"{a.seeds} × {fmt.count(a.queries)}" if a.queries else str(a.seeds),
        ]
        for a in results.answers
    ]
    head = ["contrast", "metric", "needed", "estimate", "95% interval", "p", "p (Holm)", "holds", "seeds × queries"]
    return Section(
        "contrasts",
        "What the claim stands or falls with",
        "Written down before anything was run. A contrast holds where its whole interval lies above what is needed, "
        "and does not where the interval ends below the least difference that anyone would train for; else it is "
        "open. Intervals are over seeds, and over queries too where there are any. p: of a true difference that is "
        "just what is needed, two-sided; Holm: the same, for all contrasts together.",
        table=Table(head, rows, names=2),
        wrapped=True,
    )


# ------------------------------------------------------------------------------------------- charts


def _curves(results: Results) -> Chart | None:
    """Score against tokens, mean over seeds."""
    series = []
    for (css, marker), arm in zip(KINDS, results.arms, strict=False):
        means = [
            (fmean(p.tokens for p in points), fmean(p.score for p in points))
            for points in zip(*arm.curves, strict=False)
        ]
        hover = [f"{arm.name}: {fmt.score(y)} after {fmt.count(round(x))} tokens" for x, y in means]
        series.append(Series(arm.name, means, css, marker, hover=hover))
    if not any(len(s.points) > 1 for s in series):
        return None
    return line_chart(
        series,
        id="curves",
        title=f"{results.name}: held-out nDCG@10 while training",
        description=" ".join(said(s, "tokens") for s in series if s.points),
        x_label="tokens in training",
        y_label=f"held-out nDCG@10{_mean_of_seeds(results)}",
    )


def _by_dims(results: Results) -> Chart | None:
    """Score against the number of dimensions, where the experiment is about it."""
    if not any(map(_WIDTH.fullmatch, results.metrics)):
        return None
    series = []
    for (css, marker), arm in zip(KINDS, results.arms, strict=False):
        line = sorted(_widths(arm).items())
        hover = [f"{arm.name}: {fmt.score(y)} with {x} dims" for x, y in line]
        series.append(Series(arm.name, line, css, marker, hover=hover))
    ticks = sorted({x for s in series for x, _ in s.points})
    if len(ticks) < 2:
        return None
    return line_chart(
        series,
        id="dims",
        title=f"{results.name}: held-out nDCG@10 of vectors that are cut",
        description=" ".join(said(s, "dimensions") for s in series if s.points),
        x_label="dimensions kept",
        y_label=f"held-out nDCG@10{_mean_of_seeds(results)}",
        x_scale="log",
        x_ticks=ticks,
    )


def _widths(arm: ArmResult) -> dict[int, float]:
    """Mean score by width of the vectors."""
    found = {int(m[1]): fmean(v) for name, v in arm.scores.items() if (m := _WIDTH.fullmatch(name)) and v}
    if arm.dims and arm.scores.get(HELD_OUT):
        found[arm.dims] = fmean(arm.scores[HELD_OUT])
    return found


def _dots(results: Results) -> Chart | None:
    """The first score of every arm; float and 1-bit side by side where the experiment is about the loss between."""
    about_bits = BIT_LOSS in results.metrics and all({HELD_OUT, BITS} <= arm.scores.keys() for arm in results.arms)
    metrics = {"float": HELD_OUT, "1 bit": BITS} if about_bits else {results.metrics[0]: results.metrics[0]}
    arms = [arm for arm in results.arms if all(arm.scores.get(metric) for metric in metrics.values())]
    if not arms:
        return None
    groups = {name: [_dot(arm.scores[metric]) for arm in arms] for name, metric in metrics.items()}
    unit = results.units.get(results.metrics[0], "score")
    first = HELD_OUT if about_bits else results.metrics[0]
    texts = [f"{arm.name}: " + ", ".join(wording.shown(m, arm.scores[m]) for m in metrics.values()) for arm in arms]
    interval = ", each seed, their mean and its 95% interval" if len(results.seeds) > 1 else ""
    return dot_chart(
        [arm.name for arm in arms],
        groups,
        id="arms",
        title=f"{results.name}: {first} {unit} by arm",
        description=f"{' and '.join(metrics)}. {'; '.join(texts)}.",
        x_label=f"{unit}{interval}",
        words=fmt.score,
    )


def _dot(values: Sequence[float]) -> Dots:
    found = mean_interval(values)
    return Dots(values, found.mean, found.low, found.high)


def _curve_table(results: Results) -> tuple[str, Table] | None:
    points = max((len(curve) for arm in results.arms for curve in arm.curves), default=0)
    if not points:
        return None
    arms = [arm for arm in results.arms if arm.curves]
    columns = [[[c[i].score for c in arm.curves if i < len(c)] for arm in arms] for i in range(points)]
    best = {(i, j + 1) for j, column in enumerate(columns) for i in wording.best(HELD_OUT, column)}
    rows = [[arm.name, *(wording.shown(HELD_OUT, column[i]) for column in columns)] for i, arm in enumerate(arms)]
    head = ["arm", *(f"{i + 1}/{points}" for i in range(points))]
    return "The learning curves as a table, by the share of the steps", Table(head, rows, best=frozenset(best))


def _mean_of_seeds(results: Results) -> str:
    return f", mean of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""


# --------------------------------------------------------------------------------------------- arms


def _arms(results: Results) -> Section:
    rows = [
        [
            arm.name,
            fmt.count(round(fmean(arm.tokens))),
            fmt.count(round(fmean(arm.steps))),
            fmt.duration(fmean(arm.seconds)),
        ]
        for arm in results.arms
    ]
    return Section(
        "arms",
        "Arms",
        f"Each is the recipe {results.recipe} with the lines that stand at its name. Tokens, steps and time are "
        "means over seeds, of all stages of its training, those that it shares with other arms included.",
        items=[f"{arm.name}: the recipe as it is" for arm in results.arms if not arm.changes],
        lines={arm.name: _changes(arm) for arm in results.arms if arm.changes},
        table=Table(["arm", "tokens", "steps", "time"], rows),
        wrapped=True,
    )


def _changes(arm: ArmResult) -> str:
    return " ".join(f"--set {_quoted(change)}" for change in arm.changes)


def _quoted(change: str) -> str:
    """For a shell; text that is itself in single quotes stays readable."""
    return f'"{change}"' if "'" in change and not re.search(r'["$`\\!]', change) else shlex.quote(change)


def _leaks(results: Results) -> Section:
    if not results.leaks:
        note = "No named task was scored, so there was no text of one to look through."
        return Section("leaks", "Training texts in the evaluation", note)
    return Section(
        "leaks",
        "Training texts in the evaluation",
        "Training texts that were found in a task's texts, equal or nearly, in the arm and seed that has the most.",
        items=[f"{task}: {count:,}" for task, count in results.leaks.items()],
    )
