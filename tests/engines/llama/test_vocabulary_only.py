"""Tokens of a GGUF model are counted with its vocabulary alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from kv_memory import Memory, ModelError, TokenCounter
from kv_memory.testing.gguf_files import with_bytes, with_sentencepiece
from tests.test_token_counter import CALLED, SIMPLE, TOOLS, read

Write = Callable[[Path, Path], Path]


def _as_it_is(path: Path, out: Path) -> Path:
    return Path(shutil.copy(path, out))


def without_weights(path: Path, out: Path) -> Path:
    """Copy a GGUF file without its tensors."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return out


@pytest.mark.parametrize("write", [_as_it_is, with_bytes, with_sentencepiece], ids=["ours", "bytes", "sentencepiece"])
def test_the_count_is_what_the_engine_reads(converted: Callable[[str], Path], tmp_path: Path, write: Write) -> None:
    path = write(converted("tiny"), tmp_path / "model.gguf")
    memory = Memory(path, heal="never")
    talks: list[tuple[Any, Any]] = [(SIMPLE, None), (CALLED, None), (CALLED, TOOLS)]
    expected = [read(memory, messages, tools) for messages, tools in talks]
    assert [memory.count_tokens(messages, tools) for messages, tools in talks] == expected
    bare = TokenCounter(without_weights(path, tmp_path / "bare.gguf"))
    assert [bare.count_tokens(messages, tools) for messages, tools in talks] == expected
    assert bare.token_ids("an") == TokenCounter(memory.engine).token_ids("an")
    with pytest.raises(ModelError):
        Memory(tmp_path / "bare.gguf")
