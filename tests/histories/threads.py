"""An answer in one thread, and something else that happens to its session meanwhile in another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kv_memory import Reply, Session
from kv_memory.errors import ContextLengthError
from kv_memory.sessions import branch as branches
from tests.histories.checks import ENGINE
from tests.histories.world import letters

MOMENTS = ["prefill", "first text", "second text", "any"]
"""When it happens: between two chunks of the prefill, after that text of the answer, or when the threads say."""
_LONGEST = 60
"""Seconds after which a thread that does not go on fails the history."""


def answered_beside(
    session: Session, messages: list[dict[str, Any]], moment: str, act: Callable[[], object]
) -> Reply | None:
    """Have a conversation answered in a thread, while this one acts; return the reply if there is one.

    But for `any` the outcome is always the same: the thread waits at its moment until this one has acted, or waits for
    its turn.
    """
    there, acted = threading.Event(), threading.Event()
    replies: list[Reply] = []
    errors: list[BaseException] = []

    def prefilled(_: int) -> None:
        if moment == "prefill" and not there.is_set():
            there.set()
            until = time.monotonic() + _LONGEST
            while not ENGINE.lock._waiting and time.monotonic() < until:
                time.sleep(0.0005)

    def answer() -> None:
        try:
            stream = session.stream(messages, max_tokens=3, temperature=1.0, seed=0, mask=letters, progress=prefilled)
            for number, _ in enumerate(stream):
                if moment == ("first text", "second text", "")[min(number, 2)]:
                    there.set()
                    assert acted.wait(_LONGEST), "the other thread does not end"
            if stream.reply is not None:
                replies.append(stream.reply)
        except ContextLengthError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            there.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "CHUNK", 16)
        thread = threading.Thread(target=answer)
        thread.start()
        assert moment == "any" or there.wait(_LONGEST), "the answer does not go on"
        try:
            act()
        finally:
            acted.set()
            thread.join()
    assert not errors, errors
    return replies[0] if replies else None
