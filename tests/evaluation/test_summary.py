"""Figures of rows made by hand, against figures worked out by hand."""

from __future__ import annotations

from itertools import chain
from math import comb
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory.calibration.estimates import mcnemar, ratio
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, REREAD
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.bench.summary import Group, Summary, summarise
from tests.evaluation.made import FULL, HALF, TREATMENTS, case, told

POSITIVE = st.floats(0.01, 10)


def whole(rows: list[Row]) -> Group:
    """Return the figures of all cases of the first suite."""
    return summarise(rows, FULL).groups[0]


def test_residual_is_the_ratio_of_the_means_and_lies_in_its_interval() -> None:
    rows = [*case("a", 0.1, 0.5, 1.0), *case("b", 0.3, 0.6, 3.0), *case("c", 0.0, 1.0, 1.0)]
    found = whole(rows).treatments
    assert {name: figures.residual and figures.residual.value for name, figures in found.items()} == {
        NEVER_SAW: 0.0,
        OTHER_CHUNKS: 0.0,
        NO_ERASE: 1.0,
        CORRECTION: 0.48,
        REREAD: 0.0,
        FULL: 0.08,
        HALF: 0.42,
    }
    for figures in found.values():
        assert figures.residual is not None
        assert figures.residual.low <= figures.residual.value <= figures.residual.high
    assert found[FULL].kl == pytest.approx(0.4 / 3, abs=1e-5)
    assert list(found) == [name for name in TREATMENTS if name in found]


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20), st.integers(2, 4))
def test_cases_of_one_conversation_count_once(pairs: list[tuple[float, float]], times: int) -> None:
    tops, bottoms = map(list, zip(*pairs, strict=True))
    names = [str(i) for i in range(len(pairs))]
    alone = ratio(tops, bottoms)
    assert ratio(tops, bottoms, clusters=names) == alone
    repeated = ratio(tops * times, bottoms * times, clusters=names * times)
    for one, other in zip(alone.model_dump().values(), repeated.model_dump().values(), strict=True):
        assert one == pytest.approx(other, abs=2e-5)


def test_an_interval_is_over_conversations() -> None:
    rng = Random(0)
    values = [rng.random() for _ in range(40)]
    alone = [case(f"{i}", full=value) for i, value in enumerate(values)]
    together = [case(f"{i}", full=value, conversation=f"{int(value * 8)}") for i, value in enumerate(values)]
    one, other = (whole(list(chain(*rows))) for rows in (alone, together))
    narrow, wide = one.treatments[FULL].residual, other.treatments[FULL].residual
    assert narrow is not None
    assert wide is not None
    assert narrow.value == wide.value
    assert narrow.high - narrow.low < wide.high - wide.low
    assert (one.conversations, other.conversations) == (40, len({int(value * 8) for value in values}))
    assert whole(list(chain(*together))) == other


def test_cases_that_the_span_does_not_change_are_apart() -> None:
    quiet = case("below the limit", 0.009, 0.009, 0.0099)
    noisy = case("within the noise", 0.3, 0.3, 1.0, noise=0.11)
    found = whole([*case("a"), *quiet, *noisy])
    assert (found.cases, found.changed) == (3, 1)
    figures = found.treatments[FULL]
    assert figures.residual is not None
    assert figures.residual.value == 0.1
    assert figures.unchanged_kl == pytest.approx((0.009 + 0.3) / 2)
    assert figures.agrees is not None
    assert figures.agrees.of == 1
    assert whole([*case("at the limit", nothing=0.01), *case("ten times", noise=0.1)]).changed == 2
    nothing = whole(quiet).treatments[FULL]
    assert (nothing.residual, nothing.kl, nothing.agrees, nothing.versus) == (None, None, None, None)


def test_questions_that_the_span_spoils_and_those_that_it_does_not() -> None:
    rows = [
        *told(case("right again"), nothing=(False, True)),
        *told(case("still misled"), nothing=(False, True), full=(False, True), half=(False, None)),
        *told(case("kept"), half=(False, False)),
        *told(case("never right"), never=(False, False), nothing=(False, True), full=(False, True)),
        *told(case("unknown"), never=(None, None), nothing=(None, None), full=(None, None)),
    ]
    found = whole(rows).treatments
    full, half = found[FULL], found[HALF]
    assert full.restored is not None
    assert (full.restored.hits, full.restored.of) == (1, 2)
    assert full.restored.low == pytest.approx(0.0945, abs=1e-3)  # Wilson's interval of 1 of 2
    assert full.misled is not None
    assert (full.misled.hits, full.misled.of) == (1, 2)
    assert half.misled is not None
    assert (half.misled.hits, half.misled.of) == (0, 1)  # of the other it is not known
    assert (full.kept and full.kept.hits, half.kept and half.kept.hits) == (1, 0)


def test_treatments_are_compared_with_the_reference() -> None:
    better = [case(f"better {i}", full=0.5, half=0.0) for i in range(1)]
    worse = [case(f"worse {i}", full=0.0, half=0.5) for i in range(6)]
    same = [case(f"same {i}", full=0.0, half=0.0) for i in range(9)]
    found = whole(list(chain(*better, *worse, *same))).treatments
    assert found[FULL].versus is None
    paired = found[HALF].versus
    assert paired is not None
    assert (paired.better, paired.worse) == (1, 6)
    assert paired.p == 0.125  # 2 * (1 + 7) / 2**7


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    pairs = first + second
    as_far = sum(comb(pairs, k) for k in range(pairs + 1) if abs(2 * k - pairs) >= abs(first - second))
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(as_far / 2**pairs)


def test_cost() -> None:
    figures = whole([*case("a"), *case("b", following=50), *case("c", following=0)]).treatments
    assert (figures[FULL].recomputed, figures[FULL].seconds, figures[FULL].relative) == (25, 0.5, 0.25)
    assert figures[FULL].share == pytest.approx((0.25 + 0.5) / 2)
    assert (figures[REREAD].relative, figures[NEVER_SAW].seconds, figures[NEVER_SAW].relative) == (1.0, None, None)


def test_groups_are_those_of_which_there_are_several() -> None:
    rows = [
        *case("a", groups={"tokens": 4096, "depth": 0.5}),
        *case("b", groups={"tokens": 512, "depth": 0.5}, kind="look-up"),
        *case("c", suite="memory"),
        *case("d", groups={"tokens": 4096}),
    ]
    found = summarise(rows, FULL)
    assert [(group.suite, group.by, group.value, group.cases) for group in found.groups] == [
        ("documents", "", "", 3),
        ("documents", "kind", "look-up", 1),
        ("documents", "kind", "question", 2),
        ("documents", "tokens", 512, 1),
        ("documents", "tokens", 4096, 2),
        ("memory", "", "", 1),
    ]
    assert Summary.model_validate_json(found.model_dump_json()) == found


def test_every_treatment_has_the_same_cases() -> None:
    rows = [*case("a", 0.5), *case("b", correction=False), *(r for r in case("c", 0.0) if r.treatment != HALF)]
    found = whole(rows)
    assert (found.cases, found.incomplete) == (2, 1)
    counted = {name: figures.cases for name, figures in found.treatments.items()}
    assert counted == dict.fromkeys(TREATMENTS, 2) | {CORRECTION: 1}
    full = found.treatments[FULL].residual
    assert full is not None
    assert full.value == 0.3
