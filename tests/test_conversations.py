from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kv_memory.conversation.files import ConversationFile
from kv_memory.errors import ConversationError

HELLO = [{"role": "user", "content": "hello"}]
RECORD = {"messages": HELLO, "tools": [{"name": "t"}]}


@pytest.mark.parametrize(
    ("text", "index", "tools"),
    [
        (json.dumps(HELLO), 0, None),
        (json.dumps(HELLO, indent=2), 0, None),
        (json.dumps(RECORD), 0, RECORD["tools"]),
        (json.dumps([RECORD, RECORD]), 1, RECORD["tools"]),
        (json.dumps(RECORD) + "\n\n" + json.dumps({"messages": HELLO}) + "\n", 1, None),
        (json.dumps(HELLO) + "\n" + json.dumps(HELLO), 1, None),
        ("\ufeff" + json.dumps(HELLO), 0, None),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_forms_of_a_conversation(tmp_path: Path, text: str, index: int, tools: object, zipped: bool) -> None:
    path = tmp_path / "conversation"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert ConversationFile(path).load(index) == (HELLO, tools)


@pytest.mark.parametrize(
    ("data", "index", "says"),
    [
        (b'[{"role": "user"', 0, "is not JSON: Expecting"),
        (b"", 0, "is not JSON"),
        (b'{"messages": []}\n{"messages": \n', 0, "line 2 is not JSON"),
        (b'{"a": 1}\n{"a": 2}', 0, "line 1 has no list of messages"),
        (b'"text"', 0, "has no list of messages"),
        (b'[{"role": "user", "content": "a"}]\xff', 0, r"line 1: not UTF-8 \(byte 0xff\)"),
        (gzip.compress(b"[]", mtime=0)[:-6], 0, "not a sound gzip file"),
        (b"\x1f\x8bnonsense", 0, "not a sound gzip file"),
        (json.dumps(HELLO).encode(), 1, "holds 1 conversation; --index 1"),
        (json.dumps(HELLO).encode(), -1, "--index -1"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, data: bytes, index: int, says: str) -> None:
    path = tmp_path / "conversation"
    path.write_bytes(data)
    with pytest.raises(ConversationError, match=says) as error:
        ConversationFile(path).load(index)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConversationError, match="There is no file"):
        ConversationFile(tmp_path / "nothing")
    with pytest.raises(ConversationError, match="cannot be read: Is a directory"):
        ConversationFile(tmp_path)
