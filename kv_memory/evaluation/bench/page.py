"""The page of a bench: charts and tables in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import groupby

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW
from kv_memory.evaluation.bench.chart import Line, Point, chart, key
from kv_memory.evaluation.bench.page_text import METRICS, STYLE
from kv_memory.evaluation.bench.record import Run
from kv_memory.evaluation.bench.summary import BASELINES, Figures, Group, Paired, Share, Summary


def page(run: Run, summary: Summary) -> str:
    """Return the page of a run."""
    title = f"What erasers leave: {run.model}"
    styles = _styles(summary)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>",
        "<p>Spans were erased from the model's KV cache after it had read them. Each treatment is compared with a "
        "cache that never had the span, on the same cases. Bars are 95 % intervals; an arrow is above the chart.</p>",
    ]
    for suite, groups in groupby(summary.groups, lambda group: group.suite):
        parts += [f"<h2>{escape(suite)}</h2>", *_suite(list(groups), summary.reference, styles)]
    parts += ["<h2>What the figures mean</h2><dl>"]
    parts += [f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in METRICS.items()]
    parts += ["</dl><h2>How it was measured</h2>", _measured(run, summary), "</body></html>\n"]
    return "".join(parts)


def family(treatment: str) -> str:
    """Return the name of a treatment without its budget."""
    return treatment if treatment in BASELINES else treatment.partition(" ")[0]


def _styles(summary: Summary) -> dict[str, int]:
    """Number the families that are drawn: all but the baselines that are bounds, and those for the noise floor."""
    names = dict.fromkeys(name for group in summary.groups for name in group.treatments if _drawn(name))
    return {name: number for number, name in enumerate(dict.fromkeys(map(family, names)))}


def _drawn(treatment: str) -> bool:
    return treatment not in BASELINES or treatment == CORRECTION


def _suite(groups: Sequence[Group], reference: str, styles: dict[str, int]) -> Iterator[str]:
    whole, parts = groups[0], groups[1:]
    yield f"<p>{whole.cases:,} cases of {whole.conversations:,} conversations; "
    yield f"the span changes {whole.changed:,} of them."
    yield f" {whole.incomplete:,} cases lack the rows of some treatment and are left out." * bool(whole.incomplete)
    yield "</p>"
    by = {name: list(values) for name, values in groupby(parts, lambda group: group.by)}
    if whole.changed:
        yield '<div class="charts">'
        yield _figure(
            "Influence left by tokens recomputed", "share of the tokens after the span", whole, styles, _share
        )
        yield _figure("Influence left by time", "time, as a share of a re-prefill", whole, styles, _time)
        for name, values in by.items():
            if not any(isinstance(group.value, str) for group in values):
                yield _by_value(name, values, styles)
        yield "</div>" + _legend(whole, styles)
    yield _table(*_without_empty(["treatment", *_COLUMNS], list(_rows(whole))))
    yield f"<p>Better, worse and p are against {escape(reference)}.</p>"
    for name, values in by.items():
        yield f"<details><summary>Influence left, and answers as never-saw&rsquo;s, by {escape(name)}</summary>"
        yield _table(["treatment", *(f"{_value(each)}, {each.changed} changed" for each in values)], _by_rows(values))
        yield "</details>"


def _share(found: Figures) -> float | None:
    return found.share


def _time(found: Figures) -> float | None:
    return found.relative


def _figure(title: str, x_name: str, group: Group, styles: dict[str, int], x: Callable[[Figures], float | None]) -> str:
    points: dict[str, list[Point]] = {}
    for name, found in group.treatments.items():
        at = x(found)
        if _drawn(name) and found.residual is not None and at is not None:
            points.setdefault(family(name), []).append(Point(at, found.residual, f"{name} at {at:.2f}"))
    lines = [Line(name, tuple(found), styles[name]) for name, found in points.items()]
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart(title, x_name, lines)}</figure>"


def _by_value(by: str, groups: Sequence[Group], styles: dict[str, int]) -> str:
    """Return a chart over the values of a group, with a line for the first budget of each family."""
    names = [name for name in dict.fromkeys(name for group in groups for name in group.treatments) if _drawn(name)]
    lines = []
    for kind, name in {family(name): name for name in reversed(names)}.items():
        having = [(at, group.treatments[name].residual) for at, group in enumerate(groups) if name in group.treatments]
        points = [Point(at, left, f"{name}, {_value(groups[at])}") for at, left in having if left is not None]
        lines.append(Line(name, tuple(points), styles[kind]))
    title = f"Influence left by {by}"
    drawing = chart(title, by, lines, [_value(group) for group in groups])
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def _legend(group: Group, styles: dict[str, int]) -> str:
    names = dict.fromkeys(family(name) for name in group.treatments if _drawn(name))
    return '<p class="legend">' + "".join(f"<span>{key(styles[name])}{escape(name)}</span>" for name in names) + "</p>"


_COLUMNS = (
    "influence left",
    "KL, nats",
    "as never-saw",
    "better, worse, p",
    "right again",
    "still misled",
    "kept right",
    "says it is gone",
    "KL, unchanged cases",
    "tokens",
    "of following",
    "milliseconds",
    "of a re-prefill",
)


def _rows(group: Group) -> Iterator[list[str]]:
    for name, found in group.treatments.items():
        yield [
            name,
            _estimate(found.residual),
            _number(found.kl, 4),
            _portion(found.agrees),
            _paired(found.versus),
            *(_portion(share) for share in (found.restored, found.misled, found.kept, found.abstains)),
            _number(found.unchanged_kl, 4),
            f"{found.recomputed:,.0f}",
            _percent(found.share),
            "" if found.seconds is None else f"{1e3 * found.seconds:,.1f}",
            _percent(found.relative),
        ]


def _without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without the columns in which no row has anything."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    return [head[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _by_rows(groups: Sequence[Group]) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for group in groups for name in group.treatments if name != NEVER_SAW):
        found = [group.treatments.get(name) for group in groups]
        yield [
            name,
            *("" if each is None else f"{_estimate(each.residual)}\n{_portion(each.agrees)}" for each in found),
        ]


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, *cells in rows
    ]
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _measured(run: Run, summary: Summary) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.environment.versions.items())
    wholes = [group for group in summary.groups if group.by == ""]
    facts = {
        "model": run.model + (f" (weights {run.weights})" if run.weights else ""),
        "trained eraser": run.eraser,
        "type of K and V": run.dtype,
        "type of the noise floor's second reading": run.other_dtype,
        "hardware": run.environment.hardware + (f", device {run.device}" if run.device else ""),
        "versions": f"Python {run.environment.python}, {versions}",
        "commit": run.commit,
        "seed": str(run.environment.seed),
        "cases": ", ".join(f"{group.suite} {group.cases:,}" for group in wholes),
        "longest case": f"{run.longest:,} tokens",
    }
    rows = [f'<tr><th scope="row">{name}</th><td>{escape(value)}</td></tr>' for name, value in facts.items() if value]
    return f'<div class="wide"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def _value(group: Group) -> str:
    return group.value if isinstance(group.value, str) else f"{group.value:,}"


def _estimate(found: Estimate | None) -> str:
    if found is not None and found.bare:
        return f"{found.value:.3f}"
    return "" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _portion(found: Share | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.value:.1f} % ({100 * found.low:.0f} to {100 * found.high:.0f}) of {found.of:,}"


def _paired(found: Paired | None) -> str:
    return "" if found is None else f"{found.better}, {found.worse}, {found.p:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
