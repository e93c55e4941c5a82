"""The figures of a bench: for each suite, kind and group, what each treatment leaves and what it costs.

Residual influence, the share of answers that equal never-saw's, and McNemar's test are over the cases that the span
changes. A case is changed if its KL with nothing erased is at least `CHANGED` nats and at least `TIMES_NOISE` times its
noise floor, the KL of never-saw read in other chunks; a ratio over the others would be one of noise. Of those the mean
KL alone is given. Questions, tokens and seconds are over all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, median

from pydantic import BaseModel, ConfigDict

from kv_memory.calibration.estimates import Estimate, Rounded, mcnemar, ratio, wilson
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, OTHER_DTYPE, REREAD
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.suites.copying import abstains

CHANGED = 0.01
"""Nats of KL with nothing erased from which on a span changes a case."""
TIMES_NOISE = 10
"""Number of times that this KL is at least the noise floor."""
BASELINES = (NEVER_SAW, OTHER_CHUNKS, OTHER_DTYPE, NO_ERASE, CORRECTION, REREAD)

Value = str | int | float
Measured = Mapping[str, Row]
"""The rows of one case, by treatment."""


class Share(Estimate):
    """A share of cases, with Wilson's interval, in which each case counts as independent."""

    hits: int
    of: int


class Paired(BaseModel):
    """A treatment beside the reference treatment, on the same cases: in how many one of them alone equals never-saw."""

    model_config = ConfigDict(frozen=True)

    better: int
    """Number of cases in which this treatment alone does."""
    worse: int
    """Number of cases in which the reference alone does."""
    p: Rounded
    """Two-sided p of McNemar's exact test."""


class Figures(BaseModel):
    """The figures of one treatment; None where no case says anything about one."""

    model_config = ConfigDict(frozen=True)

    cases: int
    residual: Estimate | None
    """Mean KL from never-saw as a share of that with nothing erased; the interval is over conversations."""
    kl: Rounded | None
    """Mean KL from never-saw over the changed cases, in nats."""
    unchanged_kl: Rounded | None
    """Mean KL from never-saw over the cases that the span does not change, in nats."""
    agrees: Share | None
    """Cases whose greedy answer, or most likely scored tokens, are never-saw's."""
    restored: Share | None
    """Spoiled questions, which never-saw answers rightly and no erase does not, that are answered rightly."""
    misled: Share | None
    """Spoiled questions that get the answer that only the span gives."""
    kept: Share | None
    """Questions that never-saw and no erase answer rightly, that are answered rightly."""
    abstains: Share | None
    """Questions for text that is gone, for which the answer says so."""
    versus: Paired | None
    recomputed: Rounded
    """Median number of tokens recomputed."""
    share: Rounded | None
    """Mean share of the kept tokens after the span that are recomputed."""
    seconds: Rounded | None
    """Median; None for never-saw, which is not timed."""
    relative: Rounded | None
    """Median of the seconds, as a share of those of a re-prefill of the same case."""


class Group(BaseModel):
    """The figures of a suite's cases, or of those of them that have something in common."""

    model_config = ConfigDict(frozen=True)

    suite: str
    by: str
    """"": all cases; "kind", or the name of a group."""
    value: Value
    cases: int
    conversations: int
    changed: int
    """Number of cases that the span changes."""
    incomplete: int
    """Number of further cases, in no figure: they lack the rows of some treatment."""
    treatments: dict[str, Figures]


class Summary(BaseModel):
    """The figures of a bench."""

    model_config = ConfigDict(frozen=True)

    reference: str
    """Name of the treatment that others are tested against."""
    groups: tuple[Group, ...]


def summarise(rows: Iterable[Row], reference: str, seed: int = 0) -> Summary:
    """Return the figures of rows; `reference`: the treatment that `versus` compares with, `seed`: of the bootstrap.

    Each treatment of a group has the same cases, but for the correction, which not every case has.
    """
    suites: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        suites.setdefault(row.suite, {}).setdefault(row.case, {})[row.treatment] = row
    groups = [group for found in suites.values() for group in _groups(list(found.values()), reference, seed)]
    return Summary(reference=reference, groups=tuple(groups))


def is_changed(case: Measured) -> bool:
    """Return whether the span changes a case, by the rule that the module says."""
    return case[NO_ERASE].kl >= max(CHANGED, TIMES_NOISE * case[OTHER_CHUNKS].kl)


def _groups(cases: Sequence[Measured], reference: str, seed: int) -> Iterator[Group]:
    """Yield the groups of a suite: all cases, then those of each kind and of each value of a group."""
    names = list(dict.fromkeys(name for case in cases for name in case))
    names = [*(name for name in BASELINES if name in names), *(name for name in names if name not in BASELINES)]

    def group(by: str, value: Value, of: Sequence[Measured]) -> Group:
        whole = [case for case in of if all(name in case for name in names if name != CORRECTION)]
        first = [case[NEVER_SAW] for case in whole]
        return Group(
            suite=next(iter(of[0].values())).suite,
            by=by,
            value=value,
            cases=len(whole),
            conversations=len({row.conversation for row in first}),
            changed=sum(map(is_changed, whole)),
            incomplete=len(of) - len(whole),
            treatments={
                name: _figures(name, having, reference, seed) for name in names if (having := _of(whole, name))
            },
        )

    yield group("", "", cases)
    ways: dict[str, Callable[[Row], Value | None]] = {"kind": lambda row: row.kind}
    for name in dict.fromkeys(name for case in cases for name in next(iter(case.values())).groups):
        ways[name] = lambda row, name=name: row.groups.get(name)  # type: ignore[misc]
    for by, value_of in ways.items():
        parts: dict[Value, list[Measured]] = {}
        for case in cases:
            value = value_of(next(iter(case.values())))
            if value is not None:
                parts.setdefault(value, []).append(case)
        if len(parts) > 1:
            for value in sorted(parts, key=lambda value: (isinstance(value, str), value)):
                yield group(by, value, parts[value])


def _of(cases: Sequence[Measured], treatment: str) -> list[Measured]:
    return [case for case in cases if treatment in case]


def _figures(treatment: str, cases: Sequence[Measured], reference: str, seed: int) -> Figures:
    changed = [case for case in cases if is_changed(case)]
    rest = [case[treatment].kl for case in cases if not is_changed(case)]
    rows = [case[treatment] for case in changed]
    residual = None
    if rows:
        nothing, conversations = [case[NO_ERASE].kl for case in changed], [row.conversation for row in rows]
        residual = ratio([row.kl for row in rows], nothing, seed, conversations)
    spoiled = [case[treatment] for case in cases if case[NEVER_SAW].right and case[NO_ERASE].right is False]
    kept = [case[treatment] for case in cases if case[NEVER_SAW].right and case[NO_ERASE].right]
    everything = [case[treatment] for case in cases]
    timed = [] if treatment == NEVER_SAW else everything
    relative = [case[treatment].seconds / max(case[REREAD].seconds, 1e-9) for case in cases] if timed else []
    return Figures(
        cases=len(cases),
        residual=residual,
        kl=fmean(row.kl for row in rows) if rows else None,
        unchanged_kl=fmean(rest) if rest else None,
        agrees=_share(row.agrees for row in rows),
        restored=_share(row.right for row in spoiled),
        misled=_share(row.misled for row in spoiled),
        kept=_share(row.right for row in kept),
        abstains=_share(abstains(row.answer) for row in everything if row.answer is not None and _gone(row)),
        versus=_versus(treatment, _of(changed, reference), reference),
        recomputed=median(row.recomputed for row in everything),
        share=fmean(shares)
        if (shares := [row.recomputed / row.following for row in everything if row.following])
        else None,
        seconds=median(row.seconds for row in timed) if timed else None,
        relative=median(relative) if relative else None,
    )


def _gone(row: Row) -> bool:
    """Return whether the question is for text that is gone: an answer to it can be wrong, and none is right."""
    return row.right is None and row.misled is not None


def _share(hits: Iterable[bool | None]) -> Share | None:
    """Return the share of those that are known; None where none is."""
    known = [hit for hit in hits if hit is not None]
    if not known:
        return None
    return Share(**wilson(sum(known), len(known)).model_dump(), hits=sum(known), of=len(known))


def _versus(treatment: str, cases: Sequence[Measured], reference: str) -> Paired | None:
    if treatment == reference or not cases:
        return None
    pairs = [(case[treatment].agrees, case[reference].agrees) for case in cases]
    better, worse = pairs.count((True, False)), pairs.count((False, True))
    return Paired(better=better, worse=worse, p=mcnemar(better, worse))
