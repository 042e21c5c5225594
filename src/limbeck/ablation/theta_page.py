"""What the theta experiment came to: verdicts in words, tables, charts, as one page and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from limbeck.ablation.answers import WORTH
from limbeck.ablation.results import Status
from limbeck.ablation.sections import Page, Section, machine_facts, write
from limbeck.ablation.theta import ARMS, SHORT, ArmName, Cell, Results
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Headline, Table
from limbeck.evaluation.long_text import KINDS
from limbeck.evaluation.plots import KINDS as STYLES
from limbeck.evaluation.plots import Chart, Series, line_chart
from limbeck.evaluation.statistics import Paired, mean_interval, paired_bootstrap

KEPT = 0.8  # a score holds to the longest length up to which it keeps this share of what it was at the shortest

Line = tuple[ArmName, float]
"""A student and the theta that it is used with."""


def write_theta_page(results: Results, out: Path) -> None:
    """Write `out`/index.html and `out`/report.md."""
    write(_page(results), out)


def write_theta_report(results: Results, out: Path) -> None:
    """Write `out`/report.md."""
    write(_page(results), out, html=False)


def _page(results: Results) -> Page:
    sections = [part for kind in KINDS if (part := _by_length(results, kind))]
    sections += [part for part in (_real(results), _short(results)) if part]
    trained = {
        name: f"{results.tokens.get(name, 0):,} tokens, {fmt.duration(results.seconds.get(name, 0))}" for name in ARMS
    }
    return Page(
        name="theta",
        subject=results.recipe,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        headline=Headline("Long texts under RoPE theta ", f"{_theta(results.low)} and {_theta(results.high)}", ""),
        said=verdicts(results),
        about=[
            f"Students of the recipe {results.recipe}. “before”: distilled on short texts. “after”: then on long ones, "
            f"with RoPE theta {_theta(results.low)}. “swapped”: the same phase with theta {_theta(results.high)}. Each "
            "is used with every theta shown. “after” and “swapped” have the same texts, steps and tokens; “before” has "
            "not seen the long-context phase's."
        ],
        sections=sections,
        commands=results.commands,
        made={"Training": trained, "Machine": machine_facts(results.machine), "Versions": results.versions},
    )


def verdicts(results: Results) -> list[str]:
    """What the scores say, one sentence each; the first answers the question of the experiment where it is hardest.

    Differences are over the longer half of the lengths, where they would show, with the 95% interval of a bootstrap
    over pairs: both students at one length and depth (and seed).
    """
    said = []
    for kind in reversed(KINDS):  # the needle is the harder one
        longer = _longer(results, kind)
        if _all_scored(results, kind):
            parts = [f"{words} {_change(results, kind, longer, a, b)}" for words, a, b in _compared(results)]
            where = f"{longer[0]:,} to {longer[-1]:,}" if len(longer) > 1 else f"{longer[0]:,}"
            said.append(f"nDCG@10 of {kind} at {where} tokens: {'; '.join(parts)}.")
    for kind in KINDS:
        holds = [f"{_label(line)} to {_holds(results, line, kind):,}" for line in _lines(results, kind)]
        if holds:
            said.append(
                f"On {kind}, nDCG@10 keeps {KEPT:.0%} of its value at the shortest length up to these lengths: "
                f"{'; '.join(holds)}."
            )
    return said or ["Nothing to compare yet: score at least one length with both thetas"]


def status_of(results: Results) -> Status:
    """Do the long-context phase and the higher theta at inference help, on each kind of task, at the longer lengths?"""
    kinds = [kind for kind in KINDS if _all_scored(results, kind)]
    if not kinds or len({c.seed for c in results.cells}) == 1:  # one seed confirms nothing
        return "not decidable at this scale"
    claimed = [(kind, a, b) for kind in kinds for _, a, b in _compared(results)[:2]]
    found = [_paired(results, kind, _longer(results, kind), a, b) for kind, a, b in claimed]
    if any(one.high < WORTH for one in found):
        return "not reproduced"
    return "reproduced" if all(one.low > 0 for one in found) else "not decidable at this scale"


def _compared(results: Results) -> tuple[tuple[str, Line, Line], ...]:
    """What changes, from which line to which; the paper claims that the first two help."""
    low, high = results.low, results.high
    return (
        ("the long-context phase", ("before", low), ("after", low)),
        (f"theta {_theta(high)} at inference", ("after", low), ("after", high)),
        ("both thetas the other way about", ("after", high), ("swapped", low)),
    )


def _longer(results: Results, kind: str) -> list[int]:
    lengths = _lengths(results, kind)
    return lengths[len(lengths) // 2 :]


def _all_scored(results: Results, kind: str) -> bool:
    lines = {line for _, a, b in _compared(results) for line in (a, b)}
    return all(_pairs(results, kind, _longer(results, kind), line) for line in lines)


def _paired(results: Results, kind: str, lengths: Sequence[int], a: Line, b: Line) -> Paired:
    """Scores of the second line minus those of the first."""
    before, after = (_pairs(results, kind, lengths, line) for line in (a, b))
    return paired_bootstrap(after, before, common_only=True)


def _change(results: Results, kind: str, lengths: Sequence[int], a: Line, b: Line) -> str:
    """From the score of one line to that of another: "0.50 → 0.55, +0.05 [−0.01, +0.11], may be chance"."""
    found = _paired(results, kind, lengths, a, b)
    certain = found.low > 0 or found.high < 0
    scores = [_pairs(results, kind, lengths, line).values() for line in (a, b)]
    means = [fmt.score(sum(values) / len(values)) for values in scores]
    interval = f"[{fmt.change(found.low)}, {fmt.change(found.high)}]"
    return f"{means[0]} → {means[1]}, {fmt.change(found.difference)} {interval}" + (
        "" if certain else ", may be chance"
    )


def _pairs(results: Results, kind: str, lengths: Sequence[int], line: Line) -> dict[str, float]:
    """Scores by seed, length and depth."""
    cells = [c for c in _cells(results, *line, kind) if c.length in lengths]
    return {f"{c.seed} {c.length} {depth}": value for c in cells for depth, value in c.by_depth.items()}


def _holds(results: Results, line: Line, kind: str) -> int:
    scores = [(x, _mean(results, *line, kind, x)) for x in _lengths(results, kind)]
    known = [(x, y) for x, y in scores if y is not None]
    longest = known[0][0]
    for length, score in known:
        if score < KEPT * known[0][1]:
            break
        longest = length
    return longest


def _by_length(results: Results, kind: str) -> Section | None:
    lines, lengths = _lines(results, kind), _lengths(results, kind)
    if not lines:
        return None
    cells = [c for c in results.cells if c.kind == kind]
    chance = [next(c.chance for c in cells if c.length == x) for x in lengths]
    series = []
    for (css, marker), line in zip(STYLES, lines, strict=False):
        points = [(float(x), y) for x in lengths if (y := _mean(results, *line, kind, x)) is not None]
        hover = [f"{_label(line)}: {y:.3f} at {x:,.0f} tokens" for x, y in points]
        series.append(Series(_label(line), points, css, marker, dashed=line[1] != results.low, hover=hover))
    floor = [(float(x), y) for x, y in zip(lengths, chance, strict=True) if y is not None]
    series.append(Series("chance", floor, "ink", "none", dashed=True, strength=0.5))
    head = ["student, theta", *(f"{x:,}" for x in lengths)]
    rows = [[_label(line), *(_cell(results, line, kind, x) for x in lengths)] for line in lines]
    rows.append(["chance", *(fmt.score(y) for y in chance)])
    counts = ", ".join(f"{x:,}: {next(c.documents for c in cells if c.length == x)}" for x in lengths)
    return Section(
        kind,
        f"{kind.capitalize()} retrieval",
        f"nDCG@10 by tokens of each document. Documents at each length: {counts}.",
        chart=_chart(series, kind, lengths),
        table=Table(head, rows),
        folded=_depths(results, kind, lines, lengths[-1]),
    )


def _chart(series: Sequence[Series], kind: str, lengths: Sequence[int]) -> Chart | None:
    if len(lengths) < 2:
        return None
    return line_chart(
        series,
        id=kind,
        title=f"nDCG@10 of {kind} retrieval by length",
        description="; ".join(f"{s.label}: " + ", ".join(f"{y:.2f} at {x:,.0f}" for x, y in s.points) for s in series),
        x_label="tokens of each document",
        y_label="nDCG@10",
        x_scale="log",
        x_ticks=[float(x) for x in lengths],
        y_from=0.0,
        y_to=1.0,
    )


def _depths(results: Results, kind: str, lines: Sequence[Line], length: int) -> tuple[str, Table] | None:
    """nDCG@10 by depth of what is hidden, at one length."""
    found = {line: [c for c in _cells(results, *line, kind) if c.length == length and c.by_depth] for line in lines}
    depths = sorted({d for cells in found.values() for c in cells for d in c.by_depth}, key=float)
    if not depths:
        return None
    rows = [
        [_label(line), *(fmt.score(_average([c.by_depth[d] for c in cells if d in c.by_depth])) for d in depths)]
        for line, cells in found.items()
        if cells
    ]
    title = f"By depth of what is hidden, at {length:,} tokens (0 is the beginning, 1 the end)"
    return title, Table(["student, theta", *depths], rows)


def _real(results: Results) -> Section | None:
    cells = [c for c in results.cells if c.kind == "documents"]
    if not cells:
        return None
    columns = sorted({(c.task, c.length) for c in cells})
    rows = []
    for line in _lines(results, "documents"):
        own = _cells(results, *line, "documents")
        rows.append([_label(line), *(_score_of([c for c in own if (c.task, c.length) == x]) for x in columns)])
    head = ["student, theta", *(f"{task}, {window:,}" for task, window in columns)]
    sizes = {c.task: f"{c.task} has {c.queries:,} queries and {c.documents:,} documents" for c in cells}
    note = f"nDCG@10, with documents cut at so many tokens. {'; '.join(sizes.values())}."
    return Section("real", "Real long documents", note, table=Table(head, rows))


def _short(results: Results) -> Section | None:
    rows = [
        [_label(line), _score_of(_cells(results, *line, "short"))]
        for line in _lines(results, "short")
        if _cells(results, *line, "short")
    ]
    if not rows:
        return None
    note = "nDCG@10 of the run's own held-out queries: what long texts cost the short ones."
    return Section("short", "Short texts", note, table=Table(["student, theta", SHORT], rows))


# ------------------------------------------------------------------------------------------ cells


def _lines(results: Results, kind: str) -> list[Line]:
    found: set[Line] = {(c.arm, c.theta) for c in results.cells if c.kind == kind}
    return sorted(found, key=lambda line: (ARMS.index(line[0]), line[1]))


def _lengths(results: Results, kind: str) -> list[int]:
    return sorted({c.length for c in results.cells if c.kind == kind})


def _cells(results: Results, arm: ArmName, theta: float, kind: str) -> list[Cell]:
    return [c for c in results.cells if (c.arm, c.theta, c.kind) == (arm, theta, kind)]


def _mean(results: Results, arm: ArmName, theta: float, kind: str, length: int) -> float | None:
    """Over seeds; None = not scored."""
    return _average([c.score for c in _cells(results, arm, theta, kind) if c.length == length])


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cell(results: Results, line: Line, kind: str, length: int) -> str:
    return _score_of([c for c in _cells(results, *line, kind) if c.length == length])


def _score_of(cells: Sequence[Cell]) -> str:
    """Mean over seeds, with its 95% interval where there are several."""
    if not cells:
        return "–"
    found = mean_interval([c.score for c in cells])
    return fmt.score(found.mean) + (f" ± {found.high - found.mean:.3f}" if len(cells) > 1 else "")


def _label(line: Line) -> str:
    return f"{line[0]}, {_theta(line[1])}"


def _theta(theta: float) -> str:
    return f"{theta:,.0f}"
