from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kv_memory.policy import Category, Reason


def test_a_reason_is_a_category_and_a_text() -> None:
    assert Reason.of("security") == Reason(category=Category.SECURITY)
    assert Reason.of("stale: the price changed") == Reason(category=Category.STALE, text="the price changed")
    assert Reason.of("the price changed: stale") == Reason(text="the price changed: stale")
    assert Reason.of("") == Reason()


@given(st.sampled_from(Category), st.text() | st.sampled_from([*Category, "security: x", ": x", " x"]))
def test_a_reason_is_read_as_it_is_written(category: Category, text: str) -> None:
    reason = Reason(category=category, text=text)
    assert Reason.of(str(reason)) == reason
