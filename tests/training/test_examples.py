"""What an eraser is trained on: contexts, spans and queries are what they say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random

import pytest

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import KVMemoryError
from kv_memory.synthetic.worlds import make_world
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.training.corpus import NEIGHBOURS, TextExamples, read_texts
from kv_memory.training.tasks import WorldExamples

TOKENIZER = HFTokenizer(tiny_tokenizer())
END = tiny_tokenizer().convert_tokens_to_ids("<|im_end|>")
TEXT = " ".join(f"word{number}" for number in range(4000))


def test_a_text_example_is_a_piece_of_the_text_with_a_span() -> None:
    source = TextExamples(TOKENIZER, [TEXT])
    for seed in range(30):
        example = source.draw(Random(seed), 600)
        around, continuation = example.queries
        assert len(example.prefix) + len(example.span) + len(example.suffix) == 600
        assert around.ids == example.prefix[-NEIGHBOURS:] + example.suffix[:NEIGHBOURS]
        context = TOKENIZER.decode([*example.prefix, *example.suffix, *continuation.ids])
        whole = TOKENIZER.decode([*example.prefix, *example.span, *example.suffix, *continuation.ids])
        assert (context in TEXT) != (whole in TEXT)


def test_the_same_seed_gives_the_same_example() -> None:
    source = TextExamples(TOKENIZER, [TEXT])
    assert source.draw(Random(3), 400) == source.draw(Random(3), 400)


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(KVMemoryError, match="only 3 tokens"):
        TextExamples(TOKENIZER, ["abc"])


def test_texts_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    (tmp_path / "c.bin").write_text("no")
    assert read_texts(tmp_path) == ["one", "two", "three"]
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"four"))
    assert read_texts(tmp_path) == ["one", "two", "three", "four"]
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"txt": "three"}\n')
    with pytest.raises(KVMemoryError, match="line 2"):
        read_texts(tmp_path)
    with pytest.raises(KVMemoryError, match="neither a file or folder"):
        read_texts("no/such-dataset")


@pytest.mark.parametrize("questions", [1, 6, 16])
def test_at_most_so_many_questions_about_a_span(questions: int) -> None:
    source, rng = WorldExamples(ChatFormat(TOKENIZER), questions=questions), Random(3)
    counts = [len(source.draw(rng, 900).queries) for _ in range(6)]
    assert max(counts) <= questions
    assert questions < 16 or max(counts) > 6


def test_a_world_example_asks_about_its_span() -> None:
    source = WorldExamples(ChatFormat(TOKENIZER))
    found = 0
    for seed in range(4):
        world = make_world(seed, 700)
        contents = {m.get("tool_call_id", m["id"]): m["content"] for m in world.messages}
        for target in {probe.target for probe in world.probes}:
            example = source.example(world, target)
            if example is None:
                continue
            assert TOKENIZER.decode(list(example.span)) in contents.values()
            for query in example.queries:
                probe = next(p for p in world.probes if p.question in TOKENIZER.decode(list(query.ids)))
                learned = [i for i, w in zip(query.ids[1:], query.weights, strict=False) if w == 1.0]
                said = TOKENIZER.decode(learned)
                assert learned[-1] == END and query.weights[-1] == 0
                if probe.call is None:
                    assert said == probe.without
                else:
                    call = json.loads(said.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
                    assert call == {"name": probe.call, "arguments": json.loads(probe.without)}
                found += 1
    assert found > 10
