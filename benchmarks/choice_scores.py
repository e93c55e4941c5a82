"""Scores of the tokens after a span, by which a repair may choose what it runs again: higher is earlier.

They come from the attention of the first reading, which the queries of all layers give without a forward pass; those of
`changes` need a full recompute and `asked` needs the question, so that no eraser can have them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kv_memory.erasers.base import kept_after
from kv_memory.evaluation.oracle import deviations

RECENT = 64
"""Last tokens of the context whose attention tells what is read most."""
ROWS = 256
"""Queries at a time."""
Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """A context as it was read, with its span."""

    engine: Any
    seq: int
    case: Any
    entering: dict[int, Tensor]
    """Residual stream [tokens, width] that enters some layers, by layer."""

    @classmethod
    def of(cls, this: Any) -> Reading:
        """Return the reading of a trial."""
        return cls(this.engine, this.read, this.case, entering(this.engine, this.case))

    @property
    def later(self) -> list[int]:
        """Return the kept positions after the first span's start."""
        return kept_after(self.engine, self.seq, self.case.spans)

    @property
    def store(self) -> Any:
        """Return the cells, with the queries of all layers."""
        return self.engine._get(self.seq).store

    def indices(self) -> tuple[Tensor, Tensor]:
        """Return the positions after the span, and those of the span."""
        device = self.store.keys[0].device
        span = [p for start, end in self.case.spans for p in range(start, end)]
        return torch.tensor(self.later, device=device), torch.tensor(span, device=device)


def scores(reading: Reading) -> tuple[Scores, Tensor]:
    """Return the scores [later] by name, and attention among the later tokens.

    Attention is the mean over heads, float16 [layers, later, later].
    """
    at, _ = reading.indices()
    layers = [_layer(reading, layer) for layer in range(reading.store.layout.layers)]
    among = torch.stack([layer.pop("among") for layer in layers])
    of = {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}
    received = among[:, -RECENT:].float().mean((0, 1))
    seen = among.float().mean(0).sum(0) / torch.arange(len(at), 0, -1, device=at.device)
    found = _of_layers(of)
    found |= {
        "rollout": _carried(of["mass"], among, 0.5, 0.5),
        "change of output, carried": _carried(of["change"], among, 1.0, 1.0),
        "received": received,
    }
    mass, change = found["mass"], found["change of output"]
    found |= {
        "mass x received": mass * received,
        "mass x root received": mass * received.sqrt(),
        "mass x seen": mass * seen,
        "change of output x root received": change * received.sqrt(),
        "rollout x root received": found["rollout"] * received.sqrt(),
        "mass, smoothed 9": smoothed(mass, 9),
        "mass, smoothed 33": smoothed(mass, 33),
    }
    found |= _cheap_queries(reading)
    near = at >= reading.case.spans[-1][1]
    found["first"] = near * torch.linspace(2, 1, len(at), device=at.device)
    found["random"] = torch.rand(len(at), generator=torch.Generator().manual_seed(len(at))).to(at.device)
    return found, among


def _of_layers(of: dict[str, Tensor]) -> Scores:
    """Return the scores that are made of each layer's [layers, later] alone."""
    mass = of["mass"]
    depth = len(mass)
    third, late = depth // 3, 2 * depth // 3
    return {
        "mass": mass.mean(0),
        "mass, middle layer": mass[depth // 2],
        "mass, third of depth": mass[third],
        "mass, two thirds": mass[late],
        "mass, layers third and two thirds": mass[[third, late]].mean(0),
        "mass, highest layer": mass.amax(0),
        "mass, highest head": of["highest"].amax(0),
        "values taken": of["values"].mean(0),
        "change of output": of["change"].mean(0),
    }


def _layer(reading: Reading, layer: int) -> dict[str, Tensor]:
    """Return what the later tokens take from the span at one layer, each [later], and `among` [later, later].

    `change` is the first-order change of the projected attention output without the span, as a share of its mean norm.
    """
    engine, store, total = reading.engine, reading.store, len(reading.case.ids)
    at, span = reading.indices()
    weight = engine._forward.model.get_decoder().layers[layer].self_attn.o_proj.weight.float()
    value = store.values[layer][0, :, :total].repeat_interleave(store.layout.heads // store.layout.kv_heads, 0)
    rows = defaultdict(list)
    for a in attention(engine, store, layer, store.queries[layer][0][:, at], at, total=total):
        mass = a[:, :, span].sum(-1)
        taken, out = a[:, :, span] @ value[:, span], a @ value
        change = (taken - mass[..., None] * out) / (1 - mass[..., None]).clamp_min(1e-3)
        rows["mass"].append(mass.mean(0))
        rows["highest"].append(mass.amax(0))
        rows["change"].append((change.transpose(0, 1).flatten(1) @ weight.T).norm(dim=-1))
        rows["size"].append((out.transpose(0, 1).flatten(1) @ weight.T).norm(dim=-1))
        rows["values"].append(taken.norm(dim=-1).mean(0))
        rows["among"].append(a[:, :, at].mean(0).half())
    found = {name: torch.cat(parts) for name, parts in rows.items()}
    found["change"] = found["change"] / found.pop("size").mean()
    found["values"] = found["values"] / found["values"].mean().clamp_min(1e-9)
    return found


def attention(engine: Any, store: Any, layer: int, query: Tensor, at: Tensor, *, total: int) -> Iterator[Tensor]:
    """Yield the attention weights [heads, some, total] of queries [heads, tokens, head_dim] at positions `at`.

    `total`: the number of cells, whose positions are 0 to `total` - 1.
    """
    keys = store.keys[layer][0, :, :total].repeat_interleave(len(query) // store.layout.kv_heads, 0)
    position = torch.arange(total, device=at.device)
    for start in range(0, len(at), ROWS):
        part = at[start : start + ROWS]
        score = (query[:, start : start + ROWS] @ keys.transpose(1, 2)) * engine._scaling[layer]
        score.masked_fill_(position[None, None, :] > part[None, :, None], float("-inf"))
        yield score.softmax(-1)


def _carried(by_layer: Tensor, among: Tensor, own: float, keep: float) -> Tensor:
    """Return what reaches each token directly and through other tokens, summed over the layers.

    `own`: the share of a layer's attention in what leaves it; `keep`: that of what entered it. What comes by way of
    other tokens counts half.
    """
    state = torch.zeros_like(by_layer[0])
    total = torch.zeros_like(state)
    for direct, weights in zip(by_layer, among, strict=True):
        state = keep * state + own * direct + 0.5 * (weights.float() @ state)
        total = total + state
    return total


def _cheap_queries(reading: Reading) -> Scores:
    """Return the mean attention mass by queries that cost less to keep than those of all layers.

    Of each layer the mean query of the heads that share a key; and queries that each layer makes of what enters the
    middle layer, or of what enters the layers at a third and at two thirds of the depth.
    """
    store, layout = reading.store, reading.store.layout
    at, span = reading.indices()
    depth = layout.layers

    def mass(query: Tensor, layer: int) -> Tensor:
        rows = attention(reading.engine, store, layer, query, at, total=len(reading.case.ids))
        return torch.cat([a[:, :, span].sum(-1).mean(0) for a in rows])

    def made(stream: int, layer: int) -> Tensor:
        return mass(_query(reading, reading.entering[stream], layer, at), layer)

    grouped = [mass(store.queries[x][0][:, at].unflatten(0, (layout.kv_heads, -1)).mean(1), x) for x in range(depth)]
    middle, third, late = depth // 2, depth // 3, 2 * depth // 3
    by_middle = torch.stack([made(middle, layer) for layer in range(depth)])
    by_two = torch.stack([made(third if layer < middle else late, layer) for layer in range(depth)])
    return {
        "mass, mean queries of groups": torch.stack(grouped).mean(0),
        "mass by the middle's stream, all layers": by_middle.mean(0),
        "mass by the middle's stream, middle half": by_middle[depth // 4 : depth - depth // 4].mean(0),
        "mass by two streams, all layers": by_two.mean(0),
    }


def _query(reading: Reading, hidden: Tensor, layer: int, at: Tensor) -> Tensor:
    """Return the queries [heads, later, head_dim] that a layer makes of a residual stream [tokens, width]."""
    decoder = reading.engine._forward.model.get_decoder()
    module = decoder.layers[layer]
    query = module.self_attn.q_proj(module.input_layernorm(hidden))[at]
    query = query.view(len(at), reading.store.layout.heads, -1).transpose(0, 1)
    cos, sin = decoder.rotary_emb(query[None], at[None])
    rotated: Tensor = apply_rotary_pos_emb(query[None], query[None], cos, sin)[0][0]
    return rotated


def changes(reading: Reading, received: Tensor) -> tuple[Scores, Tensor]:
    """Return the scores by the oracle, and how much each later token's cells change: [layers, later]."""
    change = deviations(reading.engine, reading.seq, reading.case.spans)[1].to(received.device)
    largest = change.square().mean(0)
    return {
        "largest change": largest,
        "largest change x received": largest * received,
        "largest change x root received": largest * received.sqrt(),
    }, change


def asked(reading: Reading) -> Tensor:
    """Return the question's attention to each later token: the mean over layers, heads and the question's tokens.

    Where nothing is asked, the first eight scored tokens stand in for the question.
    """
    engine, case = reading.engine, reading.case
    seq = engine.fork(reading.seq)
    try:
        tail = case.tail or (case.scored or (0,))[:8]
        engine.prefill(seq, tail)
        store = engine._get(seq).store
        later, _ = reading.indices()
        cells = len(case.ids) + len(tail)
        rows = torch.arange(len(case.ids), cells, device=later.device)
        total = torch.zeros(len(later), device=later.device)
        for layer in range(store.layout.layers):
            weights = attention(engine, store, layer, store.queries[layer][0][:, rows], rows, total=cells)
            total += torch.cat([*weights], 1)[:, :, later].mean((0, 1))
        return total
    finally:
        engine.free(seq)


def entering(engine: Any, case: Any) -> dict[int, Tensor]:
    """Return what enters the layers at a quarter, a third, half and two thirds of the depth: [tokens, width] each."""
    modules, depth = engine._forward.model.get_decoder().layers, engine._layout.layers
    found: dict[int, list[Tensor]] = {layer: [] for layer in (depth // 2, depth // 4, depth // 3, 2 * depth // 3)}
    handles = [
        modules[layer].register_forward_pre_hook(
            lambda module, args, kwargs, layer=layer: found[layer].append(args[0][0].clone()), with_kwargs=True
        )
        for layer in found
    ]
    seq = engine.create()
    try:
        engine.prefill(seq, case.ids)
    finally:
        engine.free(seq)
        for handle in handles:
            handle.remove()
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def smoothed(score: Tensor, width: int) -> Tensor:
    """Return the moving average of a score, so that neighbours are chosen together."""
    return avg_pool1d(score[None, None], width, 1, width // 2, count_include_pad=False)[0, 0]


def best(score: Tensor, count: int) -> list[int]:
    """Return the indices of the highest scores, ascending."""
    return sorted(score.topk(min(count, len(score))).indices.tolist())


def choices(found: Scores, among: Tensor, change: Tensor, count: int) -> dict[str, list[int]]:
    """Return the tokens that each order runs again, as indices of the later ones."""
    mass = found["mass"]
    half = best(mass, count // 2)
    weight = torch.zeros_like(mass)
    weight[half] = change.square().mean(0).sqrt()[half]
    more = mass + (among.float() @ weight).mean(0)
    middle = among[[len(among) // 2]]
    first = list(range(count // 3))
    return {name: best(score, count) for name, score in found.items()} | {
        "mass, 2 hops": _two_hops(mass, among, count),
        "mass, middle layer, 2 hops": _two_hops(found["mass, middle layer"], middle, count),
        "a third first, then mass": _then(first, mass, count),
        "a third first, then mass x root received": _then(first, found["mass x root received"], count),
        "half mass, then attention to what changed": _then(half, more, count),
    }


def _two_hops(score: Tensor, among: Tensor, count: int) -> list[int]:
    """Return half by the score, half by the score and attention to the first half."""
    first = best(score, count - count // 2)
    return _then(first, score + among[:, :, first].float().sum(-1).mean(0), count)


def _then(taken: list[int], score: Tensor, count: int) -> list[int]:
    """Return the tokens that are taken, and the best others by the score, ascending; `count` in all."""
    rest = score.clone()
    rest[taken] = -1.0
    return sorted({*taken, *best(rest, count - len(taken))})
