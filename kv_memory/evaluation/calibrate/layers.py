"""The choice of the layers whose queries `influence` uses, and of the normaliser, without labels.

The rule. A way to choose tokens is judged by what is left when the `SHARE` of the later tokens that it chooses is
recomputed: mean KL from never-saw relative to no erasing, over all cases together. It is measured in two rounds:

1. every single layer, with the softmax, on the first `COARSE` cases;
2. on the other cases: the best `KEPT` of them, their pairs among the best `PAIRED`, by mean and by maximum, and the
   cheaper normalisers of the best `CHEAPER`. Pairs are left out where their memory is more than `MEMORY` of K and V.

The best single layer of the second round is chosen; a pair instead of it only if that leaves `LAYER_WORTH` less, since
each layer costs memory; and the cheapest normaliser that leaves at most `NORMALISER_WORTH` more: `none`, then
`sampled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from kv_memory.calibration.record import InfluenceSettings, ProbeChoice
from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AttentionScores, Normaliser, lacks, require
from kv_memory.erasers.influence import Combine, Influence
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.evaluation.calibrate.cases import ANSWER
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.trial import trial

SHARE = 0.15
COARSE, FINE = 3, 5
"""Number of cases of the two rounds."""
KEPT, PAIRED, CHEAPER = 4, 3, 1
MEMORY = 0.12
LAYER_WORTH = 0.02
NORMALISER_WORTH = 0.01
NORMALISERS: tuple[Normaliser, ...] = ("none", "sampled", "softmax")
"""Normalisers, the cheapest first."""


class Setting(NamedTuple):
    """One way to score tokens: layers, how they are combined, and a normaliser."""

    layers: tuple[int, ...]
    combine: Combine = "mean"
    normaliser: Normaliser = "softmax"


def choose_layers(
    engine: Engine, cases: Sequence[Case], progress: Callable[[], None] = lambda: None
) -> tuple[InfluenceSettings, tuple[ProbeChoice, ...]]:
    """Choose the settings by the rule above; return them with all that were measured, those of the second round first.

    The engine must keep the queries of all layers. `progress` is called after each case, of which there are at least
    two.
    """
    asked = require(engine, AttentionScores, "Choosing probe layers")
    first, others = cases[:COARSE], cases[COARSE:] or cases
    coarse = _left(engine, first, [Setting((layer,)) for layer in asked.probe_layers], progress)
    fine = _left(engine, others, finalists(coarse, asked.probe_memory), progress)
    best = choose(fine)

    def row(setting: Setting, left: float, count: int) -> ProbeChoice:
        return ProbeChoice(
            probe_layers=setting.layers,
            combine=setting.combine,
            normaliser=setting.normaliser,
            left=round(left, 4),
            cases=count,
            memory=round(len(setting.layers) * asked.probe_memory, 4),
        )

    rows = [row(setting, left, len(others)) for setting, left in fine.items()]
    rows += [row(setting, left, len(first)) for setting, left in coarse.items() if setting not in fine]
    chosen = row(best, fine[best], len(others)).model_dump(exclude={"cases"})
    return InfluenceSettings(**chosen), tuple(sorted(rows, key=lambda each: (-each.cases, each.left)))


def finalists(coarse: Mapping[Setting, float], memory: float) -> list[Setting]:
    """Return what the second round measures, from what single layers left in the first.

    `memory`: that of one layer's queries, as a share of that of K and V.
    """
    best = sorted(coarse, key=lambda setting: coarse[setting])[:KEPT]
    layers = [setting.layers[0] for setting in best]
    pairs: list[Setting] = []
    if 2 * memory <= MEMORY:
        both = [tuple(sorted(pair)) for pair in combinations(layers[:PAIRED], 2)]
        pairs = [Setting(pair, combine) for pair in both for combine in ("mean", "max")]
    return [
        *best,
        *pairs,
        *(Setting((layer,), "mean", name) for layer in layers[:CHEAPER] for name in NORMALISERS[:-1]),
    ]


def choose(left: Mapping[Setting, float]) -> Setting:
    """Choose a setting by the rule above, from what each leaves."""
    exact = [setting for setting in left if setting.normaliser == "softmax"]
    single = min((s for s in exact if len(s.layers) == 1), key=lambda s: left[s])
    pair = min((s for s in exact if len(s.layers) == 2), key=lambda s: left[s], default=single)
    if left[pair] <= left[single] - LAYER_WORTH:
        return pair
    cheaper = (single._replace(normaliser=name) for name in NORMALISERS)
    return next(s for s in cheaper if s in left and left[s] <= left[single] + NORMALISER_WORTH)


def _left(
    engine: Engine, cases: Iterable[Case], settings: Sequence[Setting], progress: Callable[[], None]
) -> dict[Setting, float]:
    """Return what each setting leaves over these cases together."""
    kind = Influence if lacks(engine, "shift") else ShiftInfluence
    before, after = 0.0, dict.fromkeys(settings, 0.0)
    for case in cases:
        # a number of tokens, since on a GPU a share is never less than what costs as much as one
        count = max(1, round(SHARE * case.following))
        with trial(engine, case, ANSWER) as this:
            before += this.run(None).kl
            for setting in settings:
                eraser = kind(count, layers=setting.layers, combine=setting.combine, normaliser=setting.normaliser)
                after[setting] += this.run(eraser).kl
        progress()
    return {setting: kl / max(before, 1e-12) for setting, kl in after.items()}
