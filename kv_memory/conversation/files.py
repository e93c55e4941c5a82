"""Conversations from files: a JSON list of messages, a JSON object with `messages`, or JSONL of such; plain or gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from kv_memory.errors import ConversationError


def load_conversation(path: Path, index: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Load conversation `index` (from 0) of a file: its messages, and its tools or None.

    Raises ConversationError, in one sentence, for whatever is wrong with the file.
    """
    records = _records(path, _read(path))
    if not 0 <= index < len(records):
        raise ConversationError(
            f"{path} holds {len(records)} conversation{'s' * (len(records) != 1)}; "
            f"--index {index} is not one of 0 to {len(records) - 1}."
        )
    record = records[index]
    if isinstance(record, dict):
        return record["messages"], record.get("tools")
    return record, None


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConversationError(f"There is no file {path}.") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConversationError(f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}).") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConversationError(f"{path} is not a sound gzip file: {error}.") from None
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}.") from None


def _records(path: Path, text: str) -> list[Any]:
    try:
        whole = json.loads(text)
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise ConversationError(f"{path} is not JSON: {error}.") from None
        return [_record(path, number, line) for number, line in enumerate(lines, start=1)]
    if isinstance(whole, list) and not any(isinstance(item, dict) and "messages" in item for item in whole):
        return [whole]
    records = whole if isinstance(whole, list) else [whole]
    for record in records:
        _check(path, record)
    return records


def _record(path: Path, number: int, line: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConversationError(f"{path}, line {number} is not JSON: {error}.") from None
    return record if isinstance(record, list) else _check(path, record, f", line {number}")


def _check(path: Path, record: Any, where: str = "") -> Any:
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise ConversationError(f"{path}{where} has no list of messages; give OpenAI-format conversations.")
    return record
