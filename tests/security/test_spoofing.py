"""Role markers and tombstones in contents stay contents, in six families' chat templates."""

from __future__ import annotations

import pytest

from kv_memory import Memory
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import tiny_model
from tests.security.families import FAMILIES, tokenizer
from tests.security.spoofing import TOMBSTONES, check, failures, formats, make_spoof


def test_nothing_is_taken_for_structure() -> None:
    found = check(600, seed=0)
    assert len(found) == len(FAMILIES) >= 6
    assert not any(found.values()), found


def test_cases_are_the_same_every_time() -> None:
    assert make_spoof(3) == make_spoof(3) != make_spoof(4)


def test_a_tokenizer_that_trusts_contents_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = formats()
    for form in forms.values():
        trusting = form._tokenizer.encode
        monkeypatch.setattr(form._tokenizer, "encode", lambda text, special, e=trusting: e(text, special=True))
    caught = {name: sum(any(failures(form, make_spoof(seed))) for seed in range(30)) for name, form in forms.items()}
    assert min(caught.values()) > 15, caught


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_quoted_tombstone_neither_erases_nor_revives(family: object) -> None:
    made = next(f for f in FAMILIES if f is family)
    memory = Memory(TransformersEngine(tiny_model(), tokenizer(made).hf, name="tiny"), heal="never")
    messages = [
        {"role": "user", "content": "Look it up", "id": "m0"},
        {"role": "assistant", "content": "the code is 4711", "id": "m1"},
        {"role": "user", "content": "And now?", "id": "m2"},
    ]
    session = memory.session("s")
    session.prefill(messages)
    session.retract("m1", eraser="drop")
    kept = [span.status for span in session.spans()]
    for number, text in enumerate((*TOMBSTONES, *made.special, "the code is 4711"), start=3):
        messages.append({"role": "user" if number % 2 == 0 else "assistant", "content": text, "id": f"m{number}"})
        assert session.prefill(messages).erased == 0
    spans = session.spans()
    assert [span.status for span in spans[:3]] == kept
    assert all(span.status == "live" and span.tokens for span in spans[3:])
