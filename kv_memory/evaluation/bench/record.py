"""The file of a bench: a line that says what was measured and on what, then the rows. A run is resumed from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kv_memory.engines.base import Engine
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.machine import Environment, commit, environment
from kv_memory.file_io import replacing


class Run(BaseModel):
    """The settings and the machine of a bench: rows of other ones are not comparable with these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str | None
    """Digest of the model's weights; None where none is known."""
    eraser: str | None
    """Path or hub id of the trained eraser; None for the one that comes with the model, if any."""
    dtype: str
    """Type of K and V."""
    other_dtype: str | None
    """Type of K and V of the noise floor's second engine; None where there is none."""
    device: str | None
    """Device that was asked for; None for the engine's choice."""
    longest: int
    """Largest number of tokens of a case."""
    environment: Environment
    commit: str | None

    def differs(self, other: Run) -> str | None:
        """Return what another run does not have in common with this one, as "seed 1, not 0"; None where it could have
        measured these rows. The same weights are the same model, whatever its path."""
        same = self.weights is not None and self.weights == other.weights
        for name, of in _SETTINGS.items():
            mine, others = of(self), of(other)
            if mine != others and not (same and name == "model"):
                return f"{name} {mine}, not {others}"
        return None


_SETTINGS: dict[str, Callable[[Run], object]] = {
    "model": lambda run: run.model,
    "weights": lambda run: run.weights,
    "trained eraser": lambda run: run.eraser,
    "dtype": lambda run: run.dtype,
    "other dtype": lambda run: run.other_dtype,
    "device": lambda run: run.device,
    "longest case": lambda run: run.longest,
    "seed": lambda run: run.environment.seed,
    "hardware": lambda run: run.environment.hardware,
}
"""The settings that all rows of a file share, by name."""


def this_run(
    engine: Engine,
    *,
    model: str,
    eraser: str | None = None,
    other: Engine | None = None,
    device: str | None = None,
    longest: int,
    seed: int,
) -> Run:
    """Return what a run with these settings is recorded as."""
    return Run(
        model=model,
        weights=engine.weights_digest(),
        eraser=eraser,
        dtype=engine.kv_dtype,
        other_dtype=None if other is None else other.kv_dtype,
        device=device,
        longest=longest,
        environment=environment(seed),
        commit=commit(),
    )


class Record:
    """The rows of a run, in memory and, where there is a file, in it as soon as they are added."""

    def __init__(self, run: Run, path: Path | None = None) -> None:
        """Read the rows that the file has; a last line that was cut off is taken out of it. A file that is not there
        is created.

        Raises KVMemoryError for a file that holds something else or another run's rows, or cannot be written. It is
        as it was then.
        """
        self.run = run
        self.path = path
        self._rows: dict[tuple[str, str], dict[str, Row]] = {}
        if path is not None:
            self._open(path)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; a row of the same case and treatment is replaced."""
        text = "".join(row.model_dump_json() + "\n" for row in self._take(rows))
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise _unwritable(self.path, error) from error

    def known(self, case: Case) -> Set[str]:
        """Return the treatments of a case that have a row."""
        return self._rows.get((case.suite, case.name), {}).keys()

    def rows(self, cases: Iterable[Case], treatments: Iterable[str]) -> list[Row]:
        """Return the rows of these cases and treatments, in this order: whatever order they were measured in."""
        names = tuple(treatments)
        found = (self._rows.get((case.suite, case.name), {}) for case in cases)
        return [known[name] for known in found for name in names if name in known]

    def _take(self, rows: Iterable[Row]) -> list[Row]:
        taken = list(rows)
        for row in taken:
            self._rows.setdefault((row.suite, row.case), {})[row.treatment] = row
        return taken

    def _open(self, path: Path) -> None:
        try:
            text = path.read_bytes() if path.exists() else b""
            if not text:
                with replacing(path) as draft:
                    draft.write_text(self.run.model_dump_json() + "\n", encoding="utf-8")
                return
            whole = text[: text.rfind(b"\n") + 1]
            first, *lines = whole.splitlines() or [b""]
            self._check(path, first)
            self._take(_row(path, number, line) for number, line in enumerate(lines, 2))
            with path.open("r+b") as file:
                file.truncate(len(whole))
        except OSError as error:
            raise _unwritable(path, error) from error

    def _check(self, path: Path, first: bytes) -> None:
        try:
            run = Run.model_validate_json(first)
        except ValidationError as error:
            raise KVMemoryError(f"{path} is no file of a bench; give another --out.") from error
        differs = run.differs(self.run)
        if differs:
            raise KVMemoryError(f"{path} has rows of {differs}; give another --out, or the same settings.")


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        raise KVMemoryError(f"{path}, line {number}, is no row of a bench; give another --out.") from error


def _unwritable(path: Path, error: OSError) -> KVMemoryError:
    return KVMemoryError(f"{path} cannot be read or written: {error.strerror or error}.")
