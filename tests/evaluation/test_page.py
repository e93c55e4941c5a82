"""The page: well-formed, on its own, and with hostile names in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.bench.chart import HEIGHT, WIDTH, Line, Point, chart
from kv_memory.evaluation.bench.page import family, page
from kv_memory.evaluation.bench.summary import summarise
from tests.evaluation.made import FULL, HALF, case, told
from tests.evaluation.test_record import RUN

VOID = {"meta", "br"}
HOSTILE = "<script>alert('&\"')</script>"


class Checked(HTMLParser):
    """Reads a page strictly: each element is closed in order; the names, attributes and text are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def made(run: Any = RUN, **given: Any) -> str:
    rows = [
        *told(case("a", groups={"distance": 0}, **given), nothing=(False, True)),
        *told(case("b", half=2.5, groups={"distance": 1500}, **given)),
        *case("c", nothing=0.0, groups={"distance": 1500}, **given),
    ]
    return page(run, summarise(rows, FULL))


def test_a_page_is_well_formed_and_needs_nothing_else() -> None:
    text = made()
    read = Checked(text)
    assert read.open == []
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(read.names)
    assert not {"src", "href", "srcset", "data", "xlink:href"} & {name for name, _ in read.attributes}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert read.names.count("svg") == 3 + 3  # charts and the legend's marks
    assert read.names.count("details") == 1


def test_what_was_measured_how_and_what_it_means_is_said() -> None:
    run = RUN.model_copy(update={"weights": "ab12", "commit": "0f0f", "other_dtype": "bfloat16"})
    said = " ".join(Checked(made(run)).text)
    for part in ("tiny (weights ab12)", "float32", "bfloat16", "a machine", "0f0f", "documents 3", "100 tokens"):
        assert part in said
    for part in ("3 cases of 3 conversations; the span changes 2 of them", "at least 0.01 nats", "10 times"):
        assert part in said
    residual = summarise(list(chain(case("a"), case("b", half=2.5))), FULL).groups[0].treatments[HALF].residual
    assert residual is not None
    assert f"{residual.value:.3f} ({residual.low:.3f} to {residual.high:.3f})" in said


@pytest.mark.parametrize("where", ["suite", "kind"])
def test_hostile_names_are_text(where: str) -> None:
    more: dict[str, Any] = {"suite": "other"} if where == "kind" else {}
    named: dict[str, Any] = {where: HOSTILE}
    rows = [*case("a", **named, **more), *case("b", groups={HOSTILE: HOSTILE}, **more)]
    rows += [row.model_copy(update={"treatment": HOSTILE}) for row in rows if row.treatment == HALF]
    rows += case("c", groups={HOSTILE: 1}, **more)
    text = page(RUN.model_copy(update={"model": HOSTILE, "commit": HOSTILE}), summarise(rows, HOSTILE))
    read = Checked(text)
    assert read.open == []
    assert "<script" not in text
    assert sum(HOSTILE in part for part in read.text) >= 4


def test_a_suite_that_the_span_never_changes_has_a_table_and_no_chart() -> None:
    read = Checked(page(RUN, summarise(case("a", nothing=0.0), FULL)))
    assert "svg" not in read.names
    assert "KL, unchanged cases" in read.text
    assert not {"influence left", "right again", "as never-saw"} & set(
        read.text[: read.text.index("What the figures mean")]
    )


@given(
    st.lists(st.tuples(*[st.floats(0, 1e6)] * 4), min_size=1, max_size=5),
    st.sampled_from([(), ("0", "250", "1,500")]),
)
def test_everything_is_drawn_inside_the_chart(found: list[tuple[float, ...]], ticks: tuple[str, ...]) -> None:
    points = [
        Point(int(x) % 3 if ticks else x, Estimate(value=sorted(y)[1], low=min(y), high=max(y)), "label")
        for x, *y in found
    ]
    drawn = chart("title", "name", [Line("line", tuple(points), 0)], ticks)
    assert Checked(drawn).open == []
    for name, limit in (("x", WIDTH), ("cx", WIDTH), ("y", HEIGHT), ("cy", HEIGHT)):
        for value in re.findall(rf' {name}="([^"]+)"', drawn):
            assert 0 <= float(value) <= limit
    bars = re.findall(r'd="M\S+ (\S+)V([^"]+)"', drawn)
    assert len(bars) == len(points)
    assert all(0 <= float(end) <= HEIGHT for bar in bars for end in bar)
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_a_family_is_a_name_without_its_budget() -> None:
    assert [family(name) for name in ("shift+influence 25%", "drop", "repair 0.05 left", "correction in text")] == [
        "shift+influence",
        "drop",
        "repair",
        "correction in text",
    ]
