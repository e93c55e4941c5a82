"""The choice of the layers whose queries `influence` uses, and of the normaliser, without labels.

The rule. On messages of conversations, or random spans of a text that is given, the model's own change after a full
recompute (oracle.py) says which tokens matter: a token's weight is its squared change, averaged over layers, so that
few large changes count and many small ones do not. A score is worth the share of that weight in its best `K` tokens,
divided by the share in the best choice of `K` tokens. Then:

1. the probe layer is the one whose softmax score is worth most, averaged over all cases;
2. a second layer is added, by mean or maximum, only if that is worth `LAYER_WORTH` more: each layer costs memory;
3. the normaliser is the cheapest that is worth at most `NORMALISER_WORTH` less: `none`, then `sampled`.

Whether `influence` is then used at all is decided by the influence that it leaves (decide.py), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from kv_memory.calibration.record import InfluenceSettings, LayerShare
from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AttentionScores, Normaliser, require
from kv_memory.erasers.influence import Combine
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.oracle import deviations, top_share

K = 32
LAYER_WORTH = 0.05
NORMALISER_WORTH = 0.01
NORMALISERS: tuple[Normaliser, ...] = ("none", "sampled", "softmax")
"""Normalisers, the cheapest first."""


class Setting(NamedTuple):
    """One way to score tokens: layers, how they are combined, and a normaliser."""

    layers: tuple[int, ...]
    combine: Combine
    normaliser: Normaliser


def choose_layers(
    engine: Engine, cases: Iterable[Case], progress: Callable[[], None] = lambda: None
) -> tuple[InfluenceSettings, list[LayerShare]]:
    """Choose the settings by the rule above; return them with the worth of each single layer.

    The engine must keep the queries of all layers. `progress` is called after each case.
    """
    worths: list[dict[Setting, float]] = []
    for case in cases:
        worths.append(_worths(engine, case))
        progress()
    table = {setting: mean(worth[setting] for worth in worths) for setting in worths[0]}
    chosen = choose(table)
    layers = [
        LayerShare(layer=setting.layers[0], normaliser=setting.normaliser, share=round(worth, 4))
        for setting, worth in table.items()
        if len(setting.layers) == 1
    ]
    settings = InfluenceSettings(
        probe_layers=chosen.layers, combine=chosen.combine, normaliser=chosen.normaliser, share=round(table[chosen], 4)
    )
    return settings, layers


def _worths(engine: Engine, case: Case) -> dict[Setting, float]:
    """Return what every setting is worth on one case."""
    asked = require(engine, AttentionScores, "Choosing probe layers")
    seq = engine.create()
    try:
        engine.prefill(seq, case.ids)
        weight = deviations(engine, seq, case.spans)[1].square().mean(0)
        scores = {name: asked.influence(seq, case.spans, normaliser=name)[1] for name in NORMALISERS}
    finally:
        engine.free(seq)
    best = top_share(weight, weight.argsort(descending=True), K)

    def worth(score: Tensor) -> float:
        return top_share(weight, score.argsort(descending=True), K) / max(best, 1e-12)

    depth = range(len(scores["softmax"]))
    result = {Setting((layer,), "mean", name): worth(scores[name][layer]) for name in NORMALISERS for layer in depth}
    for one, other in torch.combinations(torch.arange(len(depth))).tolist():
        pair = scores["softmax"][[one, other]]
        result[Setting((one, other), "mean", "softmax")] = worth(pair.mean(0))
        result[Setting((one, other), "max", "softmax")] = worth(pair.amax(0))
    return result


def choose(table: Mapping[Setting, float]) -> Setting:
    """Choose a setting by the rule above, from what each is worth."""
    softmax = [setting for setting in table if setting.normaliser == "softmax"]
    single, pair = (
        max((s for s in softmax if len(s.layers) == count), key=lambda s: table[s], default=None) for count in (1, 2)
    )
    assert single is not None, "a model has a layer"
    if pair is not None and table[pair] >= table[single] + LAYER_WORTH:
        return pair
    cheaper = (single._replace(normaliser=name) for name in NORMALISERS)
    return next(setting for setting in cheaper if table[setting] >= table[single] - NORMALISER_WORTH)
