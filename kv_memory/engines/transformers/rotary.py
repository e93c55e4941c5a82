"""Rotation of cached rows to other positions.

RoPE is a rotation whose angle is linear in the position, so a row moves by one further rotation by the difference
(RoFormer, arXiv 2104.09864, section 3.2). Which rows of a model turn, which of their dimensions and by which of its
frequencies is not read off its configuration but tried: see `rotation_of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kv_memory.engines.cells import CellStore, Slots, compact, on_device
from kv_memory.engines.transformers.probe import LayoutProbe


@dataclass(frozen=True, eq=False)
class Turn:
    """One way in which rows turn with the position: pairs of dimensions, each by an angle of its own."""

    frequencies: Tensor
    """Angle of each pair in radians a position, float64 [pairs]."""
    start: int = 0
    """First of the dimensions that turn."""
    neighbours: bool = False
    """Whether pairs are neighbours; else half of the turning dimensions apart."""

    @property
    def dims(self) -> slice:
        """Return the dimensions that turn."""
        return slice(self.start, self.start + 2 * len(self.frequencies))

    def waves(self, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosine and sine [..., pairs] of the angles of these distances, float64."""
        angles = (deltas[..., None] * self.frequencies.to(deltas.device)).remainder(2 * torch.pi)
        return angles.cos(), angles.sin()

    def turned(self, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate rows that have the turning dimensions alone, with arithmetic that is more precise than their dtype."""
        precise = precise_dtype(rows.dtype)
        one, other = (rows[..., part].to(precise) for part in self._pairs())
        cos, sin = cos.to(rows.device, precise), sin.to(rows.device, precise)
        result = torch.empty_like(rows)
        for part, half in zip(self._pairs(), (one * cos - other * sin, other * cos + one * sin), strict=True):
            result[..., part] = half.to(rows.dtype)
        return result

    def turn(self, rows: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate rows [batch, heads, cells, width] by `delta` positions, or by `delta` [batch] each; rounded once."""
        by = torch.as_tensor(delta, device=rows.device).reshape(-1, 1)
        cos, sin = (wave[:, None] if wave.dim() == 3 else wave for wave in self.waves(by))
        result = rows.clone()
        result[..., self.dims] = self.turned(rows[..., self.dims], cos, sin)
        return result

    def miss(self, rows: Tensor, delta: int, there: Tensor) -> float:
        """Measure how far `turn` is from giving the rows `there`, in any dimension: 1 is what rounding explains."""
        # A dimension is made of two, and what is rounded, sine and cosine too, is so in proportion to their size.
        size, turning = rows.float().abs(), rows[..., self.dims].float().abs()
        one, other = (turning[..., part] for part in self._pairs())
        both = one + other
        for part in self._pairs():
            turning[..., part] = both
        size[..., self.dims] = turning
        tolerance = 1e-4 if rows.dtype == torch.float32 else 2e-2
        return float(((self.turn(rows, delta) - there).float().abs() / (tolerance * size + 1e-6)).max())

    def _pairs(self) -> tuple[slice, slice]:
        """Return where, among the turning dimensions, the first and the second of each pair are."""
        count = len(self.frequencies)
        if self.neighbours:
            return slice(0, None, 2), slice(1, None, 2)
        return slice(0, count), slice(count, 2 * count)


@dataclass(frozen=True)
class Rotation:
    """Turns of the rows of each layer; None for rows that stay as they are."""

    keys: tuple[Turn | None, ...]
    values: tuple[Turn | None, ...]
    """Turns of the second of the two rows that a layer keeps: of latent attention, the key's rotary part."""
    queries: tuple[Turn | None, ...]

    def turn_keys(self, layer: int, keys: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate the keys of this layer by `delta` positions, or by `delta` [batch] each."""
        turn = self.keys[layer]
        return keys if turn is None else turn.turn(keys, delta)

    @torch.inference_mode()
    def move(self, store: CellStore, slots: Tensor, delta: int) -> None:
        """Move these cells by `delta` positions: rotate their keys and kept queries. On an exception they are as
        before."""
        turning = list(self._turning(store, slots))
        before = [part[:, :, on_device(where, part.device)].clone() for _, part, where in turning]
        origins = store.origins.moved(slots, before, delta)
        places = origins.places(slots)
        at = compact(places)
        # Most cells moved as far as others did: the angles of each distance are computed once.
        deltas, each = torch.unique(origins.deltas[places], return_inverse=True)
        known: dict[tuple[int, torch.device], list[Tensor]] = {}
        try:
            for (turn, part, where), origin in zip(turning, origins.rows, strict=True):
                device, precise = part.device, precise_dtype(part.dtype)
                waves = known.get((id(turn.frequencies), device))
                if waves is None:
                    waves = [wave.to(device, precise)[each.to(device)][None] for wave in turn.waves(deltas)]
                    known[id(turn.frequencies), device] = waves
                turned = turn.turned(origin[:, :, on_device(at, device)], *waves)
                part[:, :, on_device(where, device)] = turned
            store.move(slots, delta, origins)
        except BaseException:
            for (_, part, where), old in zip(turning, before, strict=True):
                part[:, :, on_device(where, part.device)] = old
            raise

    def _turning(self, store: CellStore, slots: Tensor) -> Iterator[tuple[Turn, Tensor, Slots]]:
        """Give the turn, the tensor, its turning dimensions alone, and the places of these cells in it, of all that
        turns."""
        for turns, parts in ((self.keys, store.keys), (self.values, store.values)):
            for layer, (turn, rows) in enumerate(zip(turns, parts, strict=True)):
                if turn is not None:
                    yield turn, rows[..., turn.dims], store.at(layer, compact(slots))
        for layer, rows in zip(store.layout.probe_layers, store.queries, strict=True):
            turn = self.queries[layer]
            if turn is not None:
                yield turn, rows[..., turn.dims], compact(slots)


def precise_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which rows of this one are rotated."""
    return torch.float64 if dtype == torch.float32 else torch.float32


@torch.inference_mode()
def rotation_of(model: nn.Module, near: LayoutProbe, far: LayoutProbe, delta: int) -> Rotation | None:
    """Find how this model's rows move; None where they cannot.

    `near` and `far` saw the same lone token, `far` `delta` positions after `near`. Rows must differ by exactly one
    rotation by the model's own frequencies, or not at all; anything else (learned positions, another kind of embedding)
    cannot be moved.
    """
    known = _frequencies(model)
    parts: list[list[Turn | None]] = [[], [], []]
    for layer in range(near.depth):
        for found, (one, other) in zip(parts, near.pairs(layer, far), strict=True):
            # Without a rotary embedding both passes mostly computed the very same numbers.
            if one.numel() and not (one.any() or other.any()):
                return None  # zeros do not show how they turn
            turn = None if torch.equal(one, other) else _found(one, other, delta, known)
            if turn is None and not _same(one, other):
                return None
            found.append(turn)
    return Rotation(*(tuple(part) for part in parts))


def _found(one: Tensor, other: Tensor, delta: int, known: Sequence[Tensor]) -> Turn | None:
    """Return the turn that leads from one row to the other and back best; None where none does."""
    width = one.shape[-1]
    turns = [
        Turn(frequencies, start, neighbours)
        for frequencies in (*known, *(-each for each in known))
        if 2 * len(frequencies) <= width
        for start in sorted({0, width - 2 * len(frequencies)})
        for neighbours in (False, True)
    ]
    misses = [max(turn.miss(one, delta, other), turn.miss(other, -delta, one)) for turn in turns]
    best = min(range(len(turns)), key=misses.__getitem__, default=None)
    return None if best is None or misses[best] > 1 else turns[best]


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether rows are equal but for rounding, in each dimension: some that turn little may be far larger than
    the others."""
    tolerance = 1e-4 if one.dtype == torch.float32 else 2e-2
    size = other.float().abs()
    return bool(((one - other).float().abs() <= tolerance * (size + size.mean())).all())


def _frequencies(model: nn.Module) -> list[Tensor]:
    """Return the frequencies of the model's rotary embeddings, each float64 [pairs], in radians a position.

    A model may have several, such as one for layers with a window and one for the others.
    """
    found: list[Tensor] = []
    for name, buffer in model.named_buffers():
        # NOTE: beside those in use, embeddings keep their frequencies before YaRN or Llama 3 stretched them.
        if name.endswith("inv_freq") and "original" not in name and buffer.dim() == 1:
            exact = buffer.double().cpu()
            if not any(torch.equal(exact, other) for other in found):
                found.append(exact)
    return found
