"""Conversations from files: JSON or JSONL, plain or gzip, in the formats of `formats/`."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kv_memory.conversation.formats.shapes import Stored, stored_in
from kv_memory.errors import ConversationError

STDIN = Path("-")
"""The path that stands for standard input."""


class ConversationFile:
    """The conversations of one file. Each is converted when it is asked for, so that one that cannot be read does not
    keep the others from being read."""

    def __init__(self, path: Path) -> None:
        """Read and parse a file, or standard input for `-`.

        Raises ConversationError, in one sentence, for whatever is wrong with the file.
        """
        self.name = "Standard input" if path == STDIN else str(path)
        self._stored = _stored(self.name, _read(self.name, path))

    def __len__(self) -> int:
        return len(self._stored)

    def load(self, index: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Return conversation `index`, from 0: its messages, and its tools or None.

        Raises ConversationError, in one sentence, where there is none or it cannot be read.
        """
        if not self._stored:
            raise ConversationError(f"{self.name} holds no conversation.")
        if not 0 <= index < len(self):
            raise ConversationError(
                f"{self.name} holds {len(self)} conversation{'s' * (len(self) != 1)}; "
                f"--index {index} is not one of 0 to {len(self) - 1}."
            )
        try:
            return self._stored[index].load()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConversationError(
                f"Conversation {index} of {self.name} is not as its format has it ({type(error).__name__}: {error})."
            ) from error

    def note(self, index: int) -> str:
        """Return what of the file is left out beside this conversation; "" where nothing is."""
        return self._stored[index].note


def _read(name: str, path: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConversationError(f"There is no file {name}.") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConversationError(f"{name}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}).") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConversationError(f"{name} is not a sound gzip file: {error}.") from None
    except OSError as error:
        raise ConversationError(f"{name} cannot be read: {error.strerror or error}.") from None


def _stored(name: str, text: str) -> list[Stored]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise ConversationError(f"{name} is not JSON: {error}.") from None
        items = [_line(name, number, line) for number, line in lines]
        return stored_in(items, lambda i: f"{name}, line {lines[i][0]}")
    items = whole if isinstance(whole, list) else [whole]
    where: Callable[[int], str] = lambda i: f"{name}, item {i}" if isinstance(whole, list) else name  # noqa: E731
    return stored_in(items, where)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _line(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{name}, line {number} is not JSON: {error}.") from None
