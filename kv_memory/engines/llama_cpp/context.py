"""One llama.cpp context: cells that sequences share, and the few calls that read and change them.

The context is unified: a cell belongs to any number of sequences, so that a copy of a sequence copies no rows. A
sequence here is a small number, its *home*; the first five are the context's own, for work in progress. This module
knows positions and homes, not what tokens mean, and holds nothing that outlives a call.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.llama_cpp.library import forget_errors, last_error, library
from kv_memory.engines.llama_cpp.model import Model
from kv_memory.engines.llama_cpp.room import check_room, said_room
from kv_memory.engines.llama_cpp.rows import TYPES, Layout, State, joined
from kv_memory.errors import ContextLengthError, KVMemoryError, ModelError
from kv_memory.positions import Interval

WORK, MADE, HELD, BRIDGE, GUARD = range(5)
"""The context's own homes: WORK for cells in the making and MADE for those that are finished, HELD for cells that are
read or must outlive a change, BRIDGE for cells that are written from a state before their sequence shares them, GUARD
for all cells while others are added."""
HOMES = 7
"""Number of homes: those five, that of the sequence in use, and that of a fork of it. Each costs a row of logits in
memory, and in a model with recurrent layers a state of them."""
SPARE = 32
"""Cells beyond the longest sequence, so that a full one can still be continued from, scored and edited."""
CHUNK = 512
"""Most tokens in one call of the library."""


class CacheFullError(ContextLengthError):
    """Raised where the free cells of the context do not suffice."""


class Context:
    """A llama.cpp context with `cells` cells. Not safe for threads: its engine sees to one call at a time."""

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        threads: int | None,
        kv_type: int,
        flash_attention: bool | None,
        rope: Mapping[str, float],
        watch: Callable[[int, bool], bool] | None = None,
        homes: int = HOMES,
        cell_bytes: int | None = None,
    ) -> None:
        """Create a context. Raises ModelError, also where its cells take more memory than is free.

        `threads`: by default torch's. `flash_attention`: by default on with float16 alone, where llama.cpp does not
        round more with it. `rope`: settings of the rotary embedding, by their names in options.py. `watch` is called
        for each tensor that is computed; see watch.py. `homes`: see HOMES; with sliding windows it is all of them.
        `cell_bytes`: memory of a cell, by default as the file says.
        """
        lib = library()
        self.model = model
        self.chunk = min(CHUNK, cells)
        size = model.cell_bytes(TYPES[kv_type].itemsize) if cell_bytes is None else cell_bytes
        check_room(model, cells, size)
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = parameters.n_ubatch = self.chunk
        parameters.n_seq_max = homes
        parameters.kv_unified = parameters.swa_full = True
        parameters.n_threads = parameters.n_threads_batch = threads or torch.get_num_threads()
        parameters.type_k = parameters.type_v = kv_type
        exact = TYPES[kv_type] == torch.float32
        parameters.flash_attn_type = int(not exact if flash_attention is None else flash_attention)
        parameters.no_perf = True
        for name, value in rope.items():
            setattr(parameters, name, value)
        self._raised: list[BaseException] = []
        self._callback = lib.llama_cpp.ggml_backend_sched_eval_callback(_guarded(watch, self._raised) if watch else 0)
        parameters.cb_eval = self._callback
        forget_errors()
        pointer = lib.llama_init_from_model(model.pointer, parameters)
        if not pointer:
            reason = f"{said_room(model, cells, size)}, and llama.cpp cannot make such a context ({last_error()})"
            raise ModelError(f"{reason}; give a smaller context length.")
        self.pointer = pointer
        self.memory = lib.llama_get_memory(pointer)
        self.layout = Layout(transposed=False, kind=kv_type, parts=())
        """Layout of the states, once it is known (probe.py)."""
        self._batch = _Batch(self.chunk)
        # NOTE: the finalizer holds the model too, which must not be freed before its context.
        self.close = weakref.finalize(self, _free, pointer, self._batch, self._callback, model)

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Let `target` share the cells of `source` at positions [start, end); -1: to the last."""
        if start != end:
            library().llama_memory_seq_cp(self.memory, source, target, start, end)

    def remove(self, home: int, start: int = 0, end: int = -1) -> None:
        """Remove positions [start, end) from a sequence; cells that no sequence has any more are free."""
        if start != end:
            library().llama_memory_seq_rm(self.memory, home, start, end)

    def last(self, home: int) -> int:
        """Return the last position of a sequence; -1 when empty."""
        position: int = library().llama_memory_seq_pos_max(self.memory, home)
        return position

    def read(self, home: int) -> NDArray[np.uint8]:
        """Read the state of a sequence; `parse` shows what is in it."""
        if not self.model.window:
            return self._read(home)
        interval: Interval = library().llama_memory_seq_pos_min(self.memory, home), self.last(home) + 1
        return self._read(home) if len(_split(interval, self.model.window)) == 1 else self.read_part(home, [interval])

    def read_part(self, home: int, intervals: Sequence[Interval]) -> NDArray[np.uint8]:
        """Read the state of these positions of a sequence, which is not HELD."""
        if not self.model.window:
            return self._read_held(home, intervals)
        # NOTE: of cells out of sight of a sequence's last one, llama.cpp leaves out the rows of layers with a window.
        pieces = [piece for interval in intervals for piece in _split(interval, self.model.window)]
        if len(pieces) == 1:
            return self._read_held(home, pieces)
        return joined([self.parse(self._read_held(home, [piece])) for piece in pieces], self.layout)

    def _read_held(self, home: int, intervals: Sequence[Interval]) -> NDArray[np.uint8]:
        with self.cleared(HELD):
            for start, end in intervals:
                self.copy(home, HELD, start, end)
            return self._read(HELD)

    def read_states(self, home: int) -> NDArray[np.uint8]:
        """Read what the recurrent layers hold of a sequence."""
        return self._read(home, library().LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)

    def _read(self, home: int, flags: int = 0) -> NDArray[np.uint8]:
        lib = library()
        size = lib.llama_state_seq_get_size_ext(self.pointer, home, flags)
        data = np.empty(size, np.uint8)
        got = lib.llama_state_seq_get_data_ext(self.pointer, _bytes(data), size, home, flags)
        if got != size:
            raise KVMemoryError(f"llama.cpp did not give the cells of a sequence ({last_error()}).")
        return data

    def parse(self, data: NDArray[np.uint8]) -> State:
        """Parse a state that was read."""
        return State.parse(data, len(self.layout.parts))

    def write(self, home: int, data: NDArray[np.uint8]) -> None:
        """Fill a sequence, which is empty now, from a state. Raises CacheFullError, with the sequence still empty."""
        self._write(home, data, 0)

    def write_states(self, home: int, data: NDArray[np.uint8]) -> None:
        """Replace what a sequence has in the layers with a sliding window, or in recurrent ones, by what a state says
        that has no others. Raises CacheFullError.
        """
        self._write(home, data, library().LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)

    def _write(self, home: int, data: NDArray[np.uint8], flags: int) -> None:
        with self._guarded():
            done = library().llama_state_seq_set_data_ext(self.pointer, _bytes(data), len(data), home, flags)
        if not done:
            forget_errors()
            raise CacheFullError("The cells do not fit in the context; give it more cells.")

    def add(self, home: int, data: NDArray[np.uint8]) -> None:
        """Add the cells of a state to a sequence that has none at their positions."""
        with self.cleared(BRIDGE):
            self.write(BRIDGE, data)
            self.copy(BRIDGE, home)

    def decode(
        self,
        home: int,
        ids: Sequence[int],
        start: int,
        keep: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Tensor:
        """Append tokens from position `start` on, right after the last cell; return logits [kept tokens, vocabulary].

        `keep`: the number of last tokens whose logits are returned, all with None. `progress` is called with the number
        of tokens done after each call of the library. Raises CacheFullError; what was appended until then stays, as it
        does when `progress` raises.
        """
        first_kept = 0 if keep is None else len(ids) - keep
        kept = [torch.empty(0, self.model.vocabulary_size)]
        for at in range(0, len(ids), self.chunk):
            part = ids[at : at + self.chunk]
            outputs = max(0, at + len(part) - max(first_kept, at))
            self._run(self._batch.filled(home, part, start + at, outputs))
            if outputs:
                kept.append(self._logits(outputs))
            progress(at + len(part))
        return torch.cat(kept)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let no cell be used for another one during the block.

        NOTE: llama.cpp takes a cell of a layer with a sliding window for free once the end of its sequence is a window
        away, unless another sequence has it too.
        """
        if not self.model.window:
            yield
            return
        with self.cleared(GUARD):
            for home in range(HOMES):
                if home != GUARD and self.last(home) >= 0:
                    self.copy(home, GUARD)
            yield

    @contextmanager
    def cleared(self, home: int) -> Iterator[None]:
        """Leave one of the context's own homes empty after the block."""
        try:
            yield
        finally:
            self.remove(home)

    @contextmanager
    def adapted(self, adapter: Any) -> Iterator[None]:
        """Switch this LoRA on for the block; with None, none is on."""
        lib = library()
        if adapter is None:
            yield
            return
        chosen = (lib.llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        try:
            if lib.llama_set_adapters_lora(self.pointer, chosen, 1, (ctypes.c_float * 1)(1.0)):
                raise ModelError(f"llama.cpp cannot switch the adapter on ({last_error()}).")
            yield
        finally:
            lib.llama_set_adapters_lora(self.pointer, None, 0, None)

    def _run(self, batch: Any) -> None:
        with self._guarded():
            outcome = library().llama_decode(self.pointer, batch)
        if outcome == 1:
            raise CacheFullError("The tokens do not fit in the cells that are free; give the context more cells.")
        if outcome:
            raise KVMemoryError(f"llama.cpp could not run the tokens ({last_error(f'outcome {outcome}')}).")
        if self._raised:
            error = self._raised[0]
            self._raised.clear()
            raise error

    def _logits(self, rows: int) -> Tensor:
        width = self.model.vocabulary_size
        found = np.ctypeslib.as_array(library().llama_get_logits(self.pointer), (rows * width,))
        return torch.from_numpy(found.copy()).view(rows, width)


def _split(interval: Interval, size: int) -> list[Interval]:
    """Split positions where a multiple of `size` is."""
    start, end = interval
    cuts = [start, *range((start // size + 1) * size, end, size), end]
    return list(pairwise(cuts))


class _Batch:
    """Arguments of llama_decode, allocated once."""

    def __init__(self, size: int) -> None:
        self.raw = library().llama_batch_init(size, 0, 1)
        arrays = (self.raw.token, self.raw.pos, self.raw.n_seq_id, self.raw.logits)
        self._tokens, self._positions, counts, self._outputs = (np.ctypeslib.as_array(a, (size,)) for a in arrays)
        counts[:] = 1
        self._size = size

    def filled(self, home: int, ids: Sequence[int], start: int, outputs: int) -> Any:
        """Fill the batch with these tokens from position `start` on, the last `outputs` of them with logits."""
        count = len(ids)
        self.raw.n_tokens = count
        self._tokens[:count] = ids
        self._positions[:count] = np.arange(start, start + count)
        self._outputs[:count] = 0
        self._outputs[count - outputs : count] = 1
        for i in range(count):
            self.raw.seq_id[i][0] = home
        return self.raw


def _guarded(watch: Callable[[int, bool], bool], raised: list[BaseException]) -> Callable[[int, bool, Any], bool]:
    """Keep what `watch` raises, such as an interruption from the keyboard, for when the library has returned.

    NOTE: nothing can be raised through the library: ctypes would print it and go on, with a pass that ended early.
    """

    def call(tensor: int, asks: bool, _: Any) -> bool:
        try:
            return watch(tensor, asks)
        except BaseException as error:
            raised.append(error)
            return not asks

    return call


def _free(pointer: Any, batch: _Batch, *kept: Any) -> None:
    library().llama_free(pointer)
    library().llama_batch_free(batch.raw)


def _bytes(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
