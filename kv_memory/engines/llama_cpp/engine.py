"""The engine over llama.cpp: GGUF models on a CPU, quantised or not, with the same cache edits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kv_memory.engines.attention_mass import attention_score
from kv_memory.engines.base import STEERED, Cells, ConfigCheck, Sampling, SequenceId, Token
from kv_memory.engines.cells import compact
from kv_memory.engines.checks import asked_about, check_appended, check_fits, check_move, check_tokens, integers
from kv_memory.engines.generation import generate
from kv_memory.engines.llama_cpp.adapter import Adapter
from kv_memory.engines.llama_cpp.cell_rows import ContextRows
from kv_memory.engines.llama_cpp.context import SPARE, WORK, Context
from kv_memory.engines.llama_cpp.exclusive import exclusive
from kv_memory.engines.llama_cpp.llama_object import settings_of
from kv_memory.engines.llama_cpp.model import Model, open_model
from kv_memory.engines.llama_cpp.options import checked_rope, kv_type
from kv_memory.engines.llama_cpp.passes import Run, after_last, append, rerun, runs_of
from kv_memory.engines.llama_cpp.probe import probe
from kv_memory.engines.llama_cpp.probe_rows import ProbeRows
from kv_memory.engines.llama_cpp.sequences import Sequence, Sequences
from kv_memory.engines.llama_cpp.vocabulary import tokenizer_of
from kv_memory.engines.llama_cpp.watch import Watch
from kv_memory.engines.parts import (
    AdapterPass,
    AttentionScores,
    CellRows,
    Deviation,
    Normaliser,
    ProbeLayers,
    Scoring,
    unsupported,
)
from kv_memory.engines.threads import wait_passively
from kv_memory.positions import Interval


class LlamaCppEngine(AdapterPass, CellRows, AttentionScores, Deviation, Scoring):
    """A GGUF model with attention in every layer, in one llama.cpp context, which the sequence in use has alone.

    The others are kept outside of it until they are used again, so that what a sequence computes is the same, to the
    last bit, whichever other sequences there are. Removed cells are no longer seen by any token; their rows stay in the
    context's memory until others are written there.

    `probe_layers`: as TransformersEngine's; their post-RoPE queries and keys are kept a second time outside the
    context, as llama.cpp computes them.
    """

    def __init__(
        self,
        model: Model,
        *,
        name: str | None = None,
        context_length: int | None = None,
        cells: int | None = None,
        dtype: str | None = None,
        flash_attention: bool | None = None,
        threads: int | None = None,
        rope: Mapping[str, float] | None = None,
        chat_template: str | None = None,
        probe_layers: ProbeLayers = None,
    ) -> None:
        """Create an engine for a loaded model.

        `context_length`: longest sequence in tokens, by default what the file says; the memory of all its cells is
        allocated at once. `cells`: of the context, by default as many; with more a re-encoding has room for old and new
        cells beside each other. `dtype`: of K and V, float16 or float32. `flash_attention` and `threads`: see Context.
        `rope`: llama.cpp's settings of the rotary embedding, such as rope_freq_base (options.py). `chat_template`: one
        to use instead of the file's, in Jinja.

        Raises UnsupportedModelError for what Model.check and the probe refuse, such as recurrent layers; ModelError for
        a K and V type that is quantised, for a context that is longer than the model was trained for without `rope`,
        and for one that takes more memory than is free.
        """
        super().__init__()
        wait_passively()
        rotary = checked_rope(rope)
        limit = model.context_length(context_length, stretched=bool(rotary))
        model.check()
        self._model = model
        self._watch = Watch()
        self._context = Context(
            model,
            cells=max(cells or limit, limit) + SPARE,
            threads=threads,
            kv_type=kv_type(dtype or "float16"),
            flash_attention=flash_attention,
            rope=rotary,
            watch=self._watch,
        )
        found = probe(self._context, self._watch, limit)
        self._layers, self._attention = found.layers, found.attention
        self._probes = ProbeRows(found, self._watch, probe_layers, model.reach)
        self._cells = ContextRows(self._context, found.layers)
        self._adapters: dict[str, Adapter] = {}
        self.probe_layers = self._probes.layers
        self.probe_memory = self._probes.numbers / self._cells.numbers
        self._sequences = Sequences(self._context, self._probes.layout, limit)

        self.tokenizer = tokenizer_of(model, chat_template)
        self.name = name or str(model.known.get("model") or model.path)
        self.config = model.config()
        self.gguf_model = model.path
        self.max_positions = limit
        self.chunk = model.reach.chunk
        self.unproven = found.unproven
        self.kv_dtype = str(found.dtype).removeprefix("torch.")
        self.ruled_out = found.ruled_out(self.probe_layers)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | None = None,
        check: ConfigCheck = lambda config: None,
        **settings: Any,
    ) -> LlamaCppEngine:
        """Load a .gguf file, with the settings of the class.

        Raises as the class, ModelError for another `device` than the CPU and where the file is not a whole model that
        llama.cpp knows, and what `check` raises, which is given the model's configuration.
        """
        return cls(open_model(path, device, check), **settings)

    @classmethod
    def over(cls, llama: Any, **settings: Any) -> LlamaCppEngine:
        """Create an engine over a loaded `llama_cpp.Llama`: it shares the weights, and no context.

        Context length, K and V, RoPE and chat template are those that the object was made with. Raises as the class,
        UnsupportedModelError also for what cannot be taken over, such as a `chat_handler`.
        """
        made_with = settings_of(llama, settings.get("chat_template"))
        return cls(Model.of(llama), **{**made_with, **settings})

    @exclusive
    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA, a .gguf file, for `reencode(adapter=name)`; it stays off otherwise.

        Raises ModelError, UnsupportedOperationError for a model with latent attention.
        """
        if "adapters" in self.ruled_out:
            raise unsupported(self, "adapters")
        self._adapters[name] = Adapter(self._model, Path(path))

    def weights_digest(self) -> str | None:
        """See Engine.weights_digest. Known of models that kv_memory converted: of the weights before the conversion."""
        return self._model.known.get("weights")

    @exclusive
    def create(self) -> SequenceId:
        """Create an empty sequence."""
        return self._sequences.create()

    @exclusive
    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its cells."""
        self._sequences.free(seq)

    @exclusive
    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """Copy the cells below `end` (default: all) to a new sequence; the two share them until one is used."""
        return self._sequences.fork(seq, self.next_position(seq) if end is None else end)

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Return the position and token id of each visible cell, positions ascending; STEERED for a steering state."""
        return list(zip(self.positions(seq), self.tokens(seq), strict=True))

    def positions(self, seq: SequenceId) -> list[int]:
        """Return the positions of the visible cells, ascending."""
        return integers(self._sequences.get(seq).store.order()[0])

    def tokens(self, seq: SequenceId) -> list[int]:
        """Return the token ids of the visible cells, in the order of their positions; STEERED for a steering state."""
        store = self._sequences.get(seq).store
        return integers(store.token[store.order()[1]])

    def next_position(self, seq: SequenceId) -> int:
        """Return the position after the last cell's; 0 when empty."""
        return self._sequences.get(seq).store.next_position

    @exclusive
    def prefill(
        self,
        seq: SequenceId,
        ids: Items[int],
        positions: Items[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append tokens, in chunks. Raises ValueError for ids or positions that cannot be appended."""
        if not ids:
            return
        state = self._sequences.get(seq)
        start = state.store.next_position
        at = list(range(start, start + len(ids)) if positions is None else positions)
        self._check_appended(ids, at, start)
        home = self._sequences.home_in_order(state)
        self._probes.forget()
        state.in_order = at == list(range(start, start + len(at)))
        logits = append(self._context, home, runs_of(ids, at), progress or (lambda done: None))
        self._probes.note(state.store, state.store.allocate(torch.tensor(at), torch.tensor(ids)), len(ids))
        state.logits = logits

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        """Continue the sequence. Raises ValueError for an empty one, and for settings that are out of range."""
        self.next_logits(seq)
        return generate(self, seq, self.next_logits, sampling, cancelled)

    @exclusive
    def next_logits(self, seq: SequenceId) -> Tensor:
        """Return the logits [vocabulary] after the last cell, recomputed after an edit; no cell is changed."""
        state = self._sequences.get(seq)
        if state.logits is None:
            slots = state.store.order()[1][-1:]
            if not len(slots):
                raise ValueError("an empty sequence has no next token; prefill it first")
            check_tokens(state.store, slots)
            home = self._sequences.home_in_order(state)
            state.logits = after_last(self._context, home, int(state.store.token[slots[0]]))
        return state.logits

    @exclusive
    def score(self, seq: SequenceId, ids: Items[int]) -> Tensor:
        """Compute the log-probabilities [len(ids), vocabulary] before each of `ids`, float32."""
        state = self._sequences.get(seq)
        first, end = self.next_logits(seq), state.store.next_position
        seen = list(ids[:-1])  # nothing is asked about what follows the last
        self._check_appended(seen, range(end, end + len(seen)), end)
        home = self._sequences.home_in_order(state)
        with self._context.cleared(WORK):
            self._context.copy(home, WORK)
            rest = self._context.decode(WORK, seen, end)
        return torch.cat([first[None], rest]).log_softmax(-1)[: len(ids)]

    @exclusive
    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on."""
        state = self._sequences.get(seq)
        self._remove(state, state.store.between(start))

    @exclusive
    def drop(self, seq: SequenceId, start: int, end: int) -> None:
        """Remove the cells at positions [start, end): no token sees them any more."""
        state = self._sequences.get(seq)
        self._remove(state, state.store.find(range(start, end)))

    @exclusive
    def shift(self, seq: SequenceId, start: int, delta: int) -> None:
        """Move the cells from `start` on by `delta`, re-rotating their keys and kept queries.

        Raises ValueError where they would run into the cells before `start`, ContextLengthError beyond the context.
        """
        if "shift" in self.ruled_out:
            raise unsupported(self, "shift")
        state = self._sequences.get(seq)
        store, slots = state.store, state.store.between(start)
        if not len(slots) or delta == 0:
            return
        check_move(store, start, delta)
        self._check_fits(store.next_position + delta)
        home, state.in_order = self._sequences.home(state), False
        self._cells.move(home, store, slots, delta, probed=self.probe_layers)
        state.logits = None

    @exclusive
    def reencode(
        self, seq: SequenceId, positions: Items[int], adapter: str | None = None, *, ahead: bool = False
    ) -> None:
        """Recompute the rows of these cells from their tokens; see AdapterPass.reencode."""
        if ahead:
            raise unsupported(self, "ahead")
        state = self._sequences.get(seq)
        slots = state.store.find(sorted(set(positions)))
        if not len(slots):
            return
        check_tokens(state.store, slots)
        lora = self._adapter(adapter)
        at_end = int(state.store.position[slots[-1]]) == state.store.next_position - 1
        keep = int(at_end and adapter is None)
        home, state.in_order = self._sequences.home_in_order(state), False
        self._probes.forget()
        with rerun(self._context, home, self._runs(state, slots), lora and lora.pointer, keep=keep) as result:
            state.store.forget(slots)
            result.commit()
        self._probes.note(state.store, slots, len(slots))
        state.logits = result.logits[0] if keep else None
        if adapter is not None:
            state.store.token[slots] = STEERED

    @exclusive
    def influence(
        self,
        seq: SequenceId,
        spans: Items[Interval],
        *,
        layers: Items[int] | None = None,
        normaliser: Normaliser = "softmax",
    ) -> tuple[list[int], Tensor]:
        """Measure the later cells' attention to the spans' cells. Raises ValueError for a layer without queries."""
        if not self.probe_layers:
            raise unsupported(self, "influence")
        chosen = self.probe_layers if layers is None else tuple(layers)
        if not chosen or not set(chosen) <= set(self.probe_layers):
            raise ValueError(f"queries are kept of layers {list(self.probe_layers)}, not of {list(chosen)}")
        store = self._sequences.get(seq).store
        later, erased = asked_about(store, spans)
        scores = [
            attention_score(
                store,
                self.probe_layers.index(layer),
                later,
                erased,
                scaling=self._probes.scaling(layer),
                normaliser=normaliser,
            )
            for layer in chosen
        ]
        return integers(store.position[later]), torch.stack(scores)

    @exclusive
    def deviation(self, seq: SequenceId, positions: Items[int], layer: int = 1) -> Tensor:
        """Measure how far K and V together, at `layer`, are from what `reencode` would write: float32 [positions]."""
        if not 0 <= layer < len(self._layers):
            raise ValueError(f"layer {layer} is not one of the model's {len(self._layers)}")
        if not self._attention:
            raise unsupported(self, "deviation")
        state = self._sequences.get(seq)
        wanted, inverse = torch.unique(torch.tensor(list(positions), dtype=torch.int64), return_inverse=True)
        slots = state.store.find(integers(wanted))
        if not len(slots):
            return torch.zeros(0)
        check_tokens(state.store, slots)
        home = self._sequences.home(state)
        with (
            self._watch.stopping(self._attention[layer]),
            rerun(self._context, home, self._runs(state, slots)) as result,
        ):
            distance = self._cells.distance(result.old(), result.new(), self._attention[layer].cells_of)
        return distance[inverse]

    @exclusive
    def read_cells(self, seq: SequenceId, positions: Items[int]) -> Cells:
        """Copy these cells, in position order."""
        state = self._sequences.get(seq)
        slots = state.store.find(sorted(set(positions)))
        intervals = [(run.start, run.end) for run in self._runs(state, slots)]
        keys, values = self._cells.read(self._sequences.home(state), intervals)
        queries = state.store.read(compact(slots)).queries
        return Cells(
            positions=tuple(integers(state.store.position[slots])),
            token_ids=tuple(integers(state.store.token[slots])),
            keys=tuple(keys),
            values=tuple(values),
            queries=tuple(rows[0] for rows in queries),
        )

    @exclusive
    def write_cells(self, seq: SequenceId, cells: Cells) -> None:
        """Put cells back. Raises ValueError for another model's cells, ContextLengthError beyond the context."""
        state = self._sequences.get(seq)
        store, count = state.store, len(cells.positions)
        self._check_fits(max(cells.positions, default=-1) + 1)
        cells.check(*self._cells.shapes(count), self._probes.shapes(count))
        if not count:
            return
        positions, ids = torch.tensor(cells.positions), torch.tensor(cells.token_ids)
        there = torch.isin(positions, store.order()[0])
        home, state.in_order = self._sequences.home(state), False
        store.forget(store.find(integers(positions[there])))
        self._cells.write(home, cells, integers(positions[there]))
        if not bool(there.all()):
            store.allocate(positions[~there], ids[~there])
        slots = store.find(cells.positions)
        store.token[slots] = ids
        self._probes.put(store, slots, [self._cells.whole_keys(cells, i) for i in self.probe_layers], cells.queries)
        state.logits = None

    def _remove(self, state: Sequence, slots: Tensor) -> None:
        if not len(slots):
            return
        home = self._sequences.home(state)
        state.in_order = state.in_order and torch.equal(state.store.order()[1][-len(slots) :], slots)
        for run in self._runs(state, slots):
            self._context.remove(home, run.start, run.end)
        state.store.release(slots)
        state.logits = None

    def _runs(self, state: Sequence, slots: Tensor) -> list[Run]:
        return runs_of(integers(state.store.token[slots]), integers(state.store.position[slots]))

    def _adapter(self, name: str | None) -> Adapter | None:
        if name is not None and name not in self._adapters:
            loaded = ", ".join(sorted(self._adapters)) or "none"
            raise ValueError(f"no adapter {name!r} is loaded; loaded: {loaded}")
        return None if name is None else self._adapters[name]

    def _check_appended(self, ids: Items[int], positions: Items[int], start: int) -> None:
        check_appended(ids, positions, start, self._model.vocabulary_size)
        self._check_fits(max(positions, default=start - 1) + 1)

    def _check_fits(self, end: int) -> None:
        check_fits(self.name, self.max_positions, end)
