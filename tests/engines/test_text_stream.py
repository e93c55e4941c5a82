"""Ids to text: what is given out when, and which tokens it is made of."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.engines.text_stream import INCOMPLETE, TextStream


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def decode_words(ids: Sequence[int]) -> str:
    """Like SentencePiece: each word brings its space, and a text's first one is stripped."""
    return "".join(f" w{i}" for i in ids)[1:]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    text=st.text(max_size=20).filter(lambda text: not text.endswith(INCOMPLETE)),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2),
)
def test_what_comes_out_is_the_text_up_to_the_first_stop_string(text: str, stop: list[str]) -> None:
    """Fed byte by byte: nothing is given out that a stop string takes back."""
    data = text.encode("utf-8")
    stream = TextStream(decode_bytes, stop)
    given_out = ""
    for byte in data:
        given_out += stream.push(byte)
        if stream.stopped:
            break
    given_out += stream.flush()
    # A stop string is seen when it is complete; of two that end together, the one that begins first counts.
    ends = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    assert given_out == text[: min(ends)[1] if ends else None]
    assert decode_bytes(data[: stream.kept]) + stream.remainder == given_out


def test_a_character_is_given_out_with_its_last_byte() -> None:
    stream = TextStream(decode_bytes)
    assert [stream.push(byte) for byte in "a\N{SNOWMAN}b".encode()] == ["a", "", "", "\N{SNOWMAN}", "b"]


def test_bytes_that_are_no_character_are_not_held_for_ever() -> None:
    stream = TextStream(decode_bytes)
    texts = [stream.push(byte) for byte in b"\xff" * 4]
    assert "".join(texts) == "\N{REPLACEMENT CHARACTER}" * 4


def test_incomplete_bytes_at_the_end_are_left_out_with_their_tokens() -> None:
    stream = TextStream(decode_bytes)
    text = "".join(stream.push(byte) for byte in b"ab\xe2\x98") + stream.flush()
    assert (text, stream.kept, stream.remainder) == ("ab", 2, "")


def test_spaces_before_words_are_kept() -> None:
    stream = TextStream(decode_words)
    assert [stream.push(i) for i in (1, 2, 3)] == ["w1", " w2", " w3"]


def test_a_token_without_text_is_kept() -> None:
    stream = TextStream(lambda ids: "".join("" if i == 0 else "x" for i in ids))
    text = "".join(stream.push(i) for i in (1, 0)) + stream.flush()
    assert (text, stream.kept) == ("x", 2)
