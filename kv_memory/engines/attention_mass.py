"""Attention that kept queries pay to given cells: the score behind the `influence` eraser, ours (no paper)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kv_memory.engines.cells import CellStore, LayerShape, Slots, on_device
from kv_memory.engines.parts import Normaliser

EXACT = 1024
"""Largest number of asking cells for which the softmax is taken over all cells.

Of more, only those with the highest sampled scores get the softmax, and the others keep the sampled one: an eraser
wants the highest first, and the cost no longer grows with later cells times all cells.
"""
MASK_AT_ONCE = 2**25
"""Entries of the mask held in memory at a time (32 MiB, sampled 64 or 128)."""
LOGITS_AT_ONCE = 2**25
"""Unnormalised scores held in memory at a time (128 MiB)."""
FAINT = 1e-30
"""Share of attention below which a quotient by it would lose precision."""
FIRST, SAMPLE = 4, 256
"""Cells that a sampled normaliser sums: the FIRST ones, on which much attention rests in many models (StreamingLLM,
arXiv 2309.17453), and about SAMPLE of the others, evenly spaced."""


def attention_score(
    store: CellStore, layer: int, asking: Tensor, target: Tensor, *, scaling: float, normaliser: Normaliser
) -> Tensor:
    """Compute how much each asking cell attends to the target cells together, the mean over heads: float32 [asking].

    `asking` and `target` are slots; `layer` is a probe layer and `scaling` that of its scores. Each query sees the
    cells within the layer's reach. The normalisers are explained at `parts.Normaliser`; that of a layer with a window
    is never sampled, since a sample may hold none of the cells that a token sees.
    """
    found = _logits(store, layer, asking, target, scaling)
    if normaliser == "none":
        return found.mean(0)
    reach = store.layout.layers[layer].reach
    if not reach.whole or (normaliser == "softmax" and len(asking) <= EXACT):
        return (found - _known(store, layer, asking, scaling)).exp_().mean(0)
    sample, weights = _sample(store, target)
    estimate = (found - _log_normaliser(store, layer, asking, scaling, over=sample, weights=weights)).exp_().mean(0)
    if normaliser == "sampled":
        return estimate
    highest = estimate.topk(EXACT).indices
    exact = (found[:, highest] - _known(store, layer, asking[highest.cpu()], scaling)).exp_().mean(0)
    return estimate.index_copy_(0, highest, exact)


def _known(store: CellStore, layer: int, asking: Tensor, scaling: float) -> Tensor:
    """Return the softmax's log-normaliser over all cells, float32 [heads, asking].

    It is kept until the store changes, so that a second question about other target cells needs no pass over all of
    them.
    """
    device = store.keys[layer].device
    kept = store.log_normalisers.get(layer)
    if kept is None:
        kept = torch.full((store.layout.layers[layer].heads, store.used), math.nan, device=device)
    where = asking.to(device)
    missing = asking[kept[0, where].isnan().cpu()]
    if len(missing):
        kept[:, missing.to(device)] = _log_normaliser(store, layer, missing, scaling, over=slice(0, store.used))
    store.log_normalisers[layer] = kept
    return kept[:, where]


@torch.inference_mode()
def _log_normaliser(
    store: CellStore, layer: int, asking: Tensor, scaling: float, *, over: Slots, weights: Tensor | None = None
) -> Tensor:
    """Compute the log-sum-exp of the scaled scores of the cells `over` (slots), each of which counts for exp(weight)
    cells, and of the layer's sinks: float32 [heads, asking].

    Torch's fused attention gives it without scores in memory. With values that are 1 for the first cells and 0 for the
    others, its output is the share of the first cells; their own log-sum-exp is cheap, and the quotient is the whole.
    Where a token does not see the first cells, the scores are computed.
    """
    shape, device = store.layout.layers[layer], store.keys[layer].device
    if not shape.reach.whole:
        return _with_sinks(shape, _logits(store, layer, asking, torch.arange(store.used)[over], scaling))
    first = store.order()[1][:FIRST]
    queries = _for_kernels(store.queries[store.layout.probe_layers.index(layer)])
    keys = _for_kernels(store.met_keys(layer, over))
    keys = keys.repeat_interleave(shape.heads // keys.shape[1], dim=1)
    position, among = store.position.to(device), torch.arange(store.used)[over]
    # NOTE: values are as wide as a head, since kernels want the keys' shape; only the first column is used.
    values = keys.new_zeros(1, 1, len(among), shape.query_dim)
    values[0, 0, :, 0] = torch.isin(among, first).to(values)
    values = values.expand(1, shape.heads, len(among), shape.query_dim)
    shares = [queries.new_zeros(shape.heads, 0, dtype=torch.float32)]
    for part in torch.split(asking.to(device), max(1, MASK_AT_ONCE // max(len(among), 1))):
        mask = ~shape.reach.hides(position[part], position[on_device(over, device)])
        if weights is not None:
            mask = torch.where(mask, weights.to(queries), float("-inf"))
        share = scaled_dot_product_attention(queries[:, :, part], keys, values, mask[None, None], scale=scaling)
        shares.append(share[0, :, :, 0].float())
    share = torch.cat(shares, 1)
    whole = _logits(store, layer, asking, first, scaling) - share.log()
    faint = (share < FAINT).any(0).cpu()
    if bool(faint.any()):  # the first cells have no share that a quotient could be taken of
        scores = _logits(store, layer, asking[faint], torch.arange(store.used)[over], scaling, weights=weights)
        whole[:, faint.to(device)] = scores
    return _with_sinks(shape, whole)


def _with_sinks(shape: LayerShape, normaliser: Tensor) -> Tensor:
    if shape.sinks is None:
        return normaliser
    return torch.logaddexp(normaliser, shape.sinks.float().to(normaliser.device)[:, None])


def _for_kernels(rows: Tensor) -> Tensor:
    """Convert rows to a dtype that attention is quick in (on a CPU float32) and small shares do not underflow in."""
    return rows.float() if rows.device.type == "cpu" or rows.dtype == torch.float16 else rows


def _sample(store: CellStore, target: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the target cells, the first others and an even sample of the rest: their slots, and the log of the number
    of cells that each counts for."""
    others = store.order()[1]
    others = others[~torch.isin(others, target)]
    step = max(1, (len(others) - FIRST) // SAMPLE)
    rest = others[FIRST:][step // 2 :: step]
    slots = torch.cat([target, others[:FIRST], rest])
    weights = torch.zeros(len(slots))
    weights[len(slots) - len(rest) :] = math.log(step)
    return slots, weights


@torch.inference_mode()
def _logits(
    store: CellStore, layer: int, asking: Tensor, target: Tensor, scaling: float, *, weights: Tensor | None = None
) -> Tensor:
    """Compute the log-sum-exp of the target's scaled scores, float32 [heads, asking]; -inf where a cell sees none.

    `weights`: each of the target counts for exp(weight) cells.
    """
    layout, shape = store.layout, store.layout.layers[layer]
    where = target.to(shape.device)
    keys = store.met_keys(layer, where)
    columns = _for_kernels(keys[0]).transpose(1, 2)[:, None]  # [kv_heads, 1, query_dim, target]
    position = store.position.to(shape.device)
    queries = _for_kernels(store.queries[layout.probe_layers.index(layer)][0])
    queries = queries.view(len(columns), -1, *queries.shape[1:])
    scores = [keys.new_zeros(shape.heads, 0, dtype=torch.float32)]
    for part in torch.split(asking.to(shape.device), max(1, LOGITS_AT_ONCE // max(shape.heads * len(where), 1))):
        hidden = shape.reach.hides(position[part], position[where])
        logits = (queries[:, :, part] @ columns).float().mul_(scaling).masked_fill_(hidden, float("-inf"))
        logits = logits if weights is None else logits + weights.to(logits)
        scores.append(logits.logsumexp(-1).flatten(0, 1))
    return torch.cat(scores, 1)
