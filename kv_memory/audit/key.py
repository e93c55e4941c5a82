"""The key of an audit log, in a file beside it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from kv_memory.audit.errors import AuditError
from kv_memory.keys import Key

_BYTES = 32
_SHORTEST = 16


def key_of(key: bytes) -> Key:
    """Return the key of these bytes. Raises AuditError when it is too short."""
    if len(key) < _SHORTEST:
        raise AuditError(f"The key of an audit log has at least {_SHORTEST} bytes, this one has {len(key)}.")
    return Key(key)


def beside(path: Path) -> Path:
    """Return the default path of a log's key: beside the log."""
    return path.with_name(f"{path.name}.key")


def read_key(path: Path) -> bytes:
    """Read the key from a file. Raises AuditError when there is none, or when others may read it."""
    return bytes.fromhex(_read(path)[0])


def log_of(path: Path) -> str | None:
    """Return the id of the log that a key file was made for; None where it says none. Raises as `read_key`."""
    named = _read(path)[1:]
    return named[0] if named else None


def bind(path: Path, log: str) -> None:
    """Write into a key file which log it is for, so that an emptied or replaced log is noticed.

    Raises AuditError when it cannot be written.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{_read(path)[0]}\n{log}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise AuditError(f"The key {path} cannot be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> list[str]:
    """Return the lines of a key file: the key and, once its log has begun, the log's id."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise AuditError(f"The key {path} can be read by others; allow it to its owner alone: chmod 600.")
        lines = path.read_text(encoding="ascii").split("\n")
        bytes.fromhex(lines[0])
    except FileNotFoundError as error:
        raise AuditError(f"The key {path} of the audit log is missing; put it back, or start a new log.") from error
    except OSError as error:
        raise AuditError(f"The key {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise AuditError(f"{path} does not hold a key of an audit log.") from error
    return [line for line in lines if line]


def make_key(path: Path) -> bytes:
    """Return the key from a file, which is made when there is none; other processes never see it half-written.

    Raises AuditError when the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    except OSError as error:
        raise AuditError(f"The key {path} cannot be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return read_key(path)
