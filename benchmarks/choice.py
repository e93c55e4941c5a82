"""Which tokens to run again: orders of the later tokens, by what is left at equal numbers of tokens.

    python -m benchmarks.choice --model DIR --data FOLDER --out choice.jsonl --cases 40 --gpus 4 --processes 16

Every order closes the gap, runs its first tokens again, and is judged by the divergence from never-saw, on the suites
of `kv-memory eval`. The engine keeps the queries of all layers in float32. Rows are appended to the file; called again it
goes on after those that are there. `python -m benchmarks.choice --table choice.jsonl` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

SHARES = (0.05, 0.1, 0.25)
RECENT = 64
"""Last tokens of the context whose attention tells what is read most."""
BLOCK = 16
_state: dict[str, Any] = {}


def start(model: str, data: str, gpus: Any, settings: dict[str, Any]) -> None:
    """Make this worker's engine, which keeps the queries of all layers."""
    gpu = gpus.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch
    from transformers import AutoConfig

    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    depth = AutoConfig.from_pretrained(model).num_hidden_layers
    engine = TransformersEngine.load(model, dtype="float32", probe_layers=tuple(range(depth)))
    _state.update(engine=engine, form=ChatFormat(engine.tokenizer), data=data, **settings)


def orders(engine: Any, seq: int, case: Any) -> tuple[list[int], dict[str, Any], Any]:
    """Return the later positions, scores of them by name (higher is earlier), and attention among them.

    Attention is the mean over heads, float16 [layers, later, later].
    """
    import torch

    from kv_memory.erasers.base import kept_after

    later = kept_after(engine, seq, case.spans)
    gone = [p for a, b in case.spans for p in range(a, b)]
    store = engine._get(seq).store
    layout, model = store.layout, engine._forward.model
    device = store.keys[0].device
    position = torch.arange(len(case.ids), device=device)
    at, span = torch.tensor(later, device=device), torch.tensor(gone, device=device)
    groups, depth = layout.heads // layout.kv_heads, layout.layers
    mass, delta, highest, values = [], [], [], []
    among = torch.zeros(depth, len(later), len(later), dtype=torch.float16, device=device)
    layers = model.get_decoder().layers if hasattr(model, "get_decoder") else model.model.layers
    for layer in range(depth):
        keys = store.keys[layer][0, :, : len(case.ids)].repeat_interleave(groups, 0)
        value = store.values[layer][0, :, : len(case.ids)].repeat_interleave(groups, 0)
        rows = defaultdict(list)
        for part in at.split(256):
            query = store.queries[layer][0][:, part]
            score = (query @ keys.transpose(1, 2)) * engine._scaling[layer]
            score.masked_fill_(position[None, None, :] > part[None, :, None], float("-inf"))
            a = score.softmax(-1)
            p = a[:, :, span].sum(-1)
            taken = a[:, :, span] @ value[:, span]
            out = a @ value
            change = (taken - p[..., None] * out) / (1 - p[..., None]).clamp_min(1e-3)
            project = layers[layer].self_attn.o_proj.weight.float()
            flat = change.transpose(0, 1).flatten(1) @ project.T
            size = (out.transpose(0, 1).flatten(1) @ project.T).norm(dim=-1)
            rows["mass"].append(p.mean(0))
            rows["highest"].append(p.amax(0))
            rows["delta"].append(flat.norm(dim=-1))
            rows["size"].append(size)
            rows["values"].append(taken.norm(dim=-1).mean(0))
            rows["among"].append(a[:, :, at].mean(0).half())
        mass.append(torch.cat(rows["mass"]))
        highest.append(torch.cat(rows["highest"]))
        delta.append(torch.cat(rows["delta"]) / torch.cat(rows["size"]).mean())
        values.append(torch.cat(rows["values"]) / torch.cat(rows["values"]).mean().clamp_min(1e-9))
        among[layer] = torch.cat(rows["among"])
    m, d = torch.stack(mass), torch.stack(delta)
    contamination, spread = torch.zeros(len(later), device=device), torch.zeros(len(later), device=device)
    carried, total = torch.zeros_like(contamination), torch.zeros_like(contamination)
    for layer in range(depth):
        a = among[layer].float()
        contamination = 0.5 * contamination + 0.5 * (m[layer] + a @ contamination)
        spread += contamination
        carried = carried + d[layer] + a @ carried * 0.5
        total += carried
    received = among[:, -RECENT:].float().mean((0, 1))
    seen = among.float().mean(0).sum(0) / torch.arange(len(later), 0, -1, device=device)
    mid = depth // 2
    found = {
        "mass": m.mean(0),
        "mass, middle layer": m[mid],
        "mass, third of depth": m[depth // 3],
        "mass, two thirds": m[2 * depth // 3],
        "mass, layers third and two thirds": m[[depth // 3, 2 * depth // 3]].mean(0),
        "mass, highest layer": m.amax(0),
        "mass, highest head": torch.stack(highest).amax(0),
        "values": torch.stack(values).mean(0),
        "delta": d.mean(0),
        "rollout": spread,
        "delta carried": total,
        "mass x received": m.mean(0) * received,
        "mass x root received": m.mean(0) * received.sqrt(),
        "mass x seen": m.mean(0) * seen,
        "delta x root received": d.mean(0) * received.sqrt(),
        "rollout x root received": spread * received.sqrt(),
        "received": received,
    }
    found |= {"mass, smoothed 9": smoothed(m.mean(0), 9), "mass, smoothed 33": smoothed(m.mean(0), 33)}
    found |= cheap_queries(engine, case, store, at, span)
    near = torch.zeros(len(later), device=device)
    near[torch.tensor([i for i, p in enumerate(later) if p >= case.spans[-1][1]] or [0], device=device)] = 1.0
    found["first"] = near * torch.linspace(2, 1, len(later), device=device)
    found["random"] = torch.rand(len(later), generator=torch.Generator().manual_seed(len(later))).to(device)
    return later, found, among


def cheap_queries(engine: Any, case: Any, store: Any, at: Any, span: Any) -> dict[str, Any]:
    """Return the mean attention mass by queries that cost less to keep than those of all layers.

    Of each layer the mean query of the heads that share a key; and queries that each layer makes of what enters the
    middle layer, or of what enters the layers at a third and at two thirds of the depth.
    """
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    decoder = engine._forward.model.get_decoder()
    depth, heads, kv_heads = store.layout.layers, store.layout.heads, store.layout.kv_heads
    position = torch.arange(len(case.ids), device=at.device)
    entering = _entering(engine, case)

    def mass(query: Any, layer: int) -> Any:
        """Return the mass [later] that queries [heads, later, head_dim] pay to the span."""
        keys = store.keys[layer][0, :, : len(case.ids)].repeat_interleave(len(query) // kv_heads, 0)
        parts = []
        for part, rows in zip(at.split(256), query.split(256, 1), strict=True):
            score = (rows @ keys.transpose(1, 2)) * engine._scaling[layer]
            score.masked_fill_(position[None, None, :] > part[None, :, None], float("-inf"))
            parts.append(score.softmax(-1)[:, :, span].sum(-1).mean(0))
        return torch.cat(parts)

    def made(hidden: Any, layer: int) -> Any:
        module = decoder.layers[layer]
        query = module.self_attn.q_proj(module.input_layernorm(hidden))[at]
        query = query.view(len(at), heads, -1).transpose(0, 1)
        cos, sin = decoder.rotary_emb(query[None], at[None])
        return apply_rotary_pos_emb(query[None], query[None], cos, sin)[0][0]

    grouped = [
        mass(store.queries[layer][0][:, at].unflatten(0, (kv_heads, -1)).mean(1), layer) for layer in range(depth)
    ]
    middle, third, late = depth // 2, depth // 3, 2 * depth // 3
    by_middle = torch.stack([mass(made(entering[middle], layer), layer) for layer in range(depth)])
    by_two = torch.stack([mass(made(entering[third if x < middle else late], x), x) for x in range(depth)])
    return {
        "mass, mean queries of groups": torch.stack(grouped).mean(0),
        "mass by the middle's stream, all layers": by_middle.mean(0),
        "mass by the middle's stream, middle half": by_middle[depth // 4 : depth - depth // 4].mean(0),
        "mass by two streams, all layers": by_two.mean(0),
    }


def smoothed(score: Any, width: int) -> Any:
    """Return the moving average of a score, so that neighbours are chosen together."""
    from torch.nn.functional import avg_pool1d

    return avg_pool1d(score[None, None], width, 1, width // 2, count_include_pad=False)[0, 0]


def best(score: Any, count: int) -> list[int]:
    """Return the indices of the highest scores, ascending."""
    return sorted(score.topk(min(count, len(score))).indices.tolist())


def two_hops(score: Any, among: Any, count: int) -> list[int]:
    """Return half by the score, half by the score and attention to the first half."""
    first = best(score, count - count // 2)
    second = score + among[:, :, first].float().sum(-1).mean(0)
    second[first] = -1.0
    return sorted({*first, *best(second, count // 2)})


def covering(among: Any, score: Any, received: Any, count: int) -> list[int]:
    """Return blocks chosen by turns near and by score: a third first tokens, the others by score."""
    first = list(range(count // 3))
    rest = score.clone()
    rest[first] = -1.0
    return sorted({*first, *best(rest, count - len(first))})


def measure(job: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Measure one case; one that fails is told and left out."""
    try:
        return _measure(job)
    except Exception:
        traceback.print_exc()
        return []


def _measure(job: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Measure one case: a row for each order and share."""
    import torch

    from kv_memory.erasers.shift import Shift
    from kv_memory.evaluation.oracle import deviations
    from kv_memory.evaluation.trial import trial
    from kv_memory.positions import moved

    suite, number, seed = job
    if time.time() > _state["until"]:
        return []
    case = list(islice(_cases(suite, seed), number, number + 1))
    if not case:
        return []
    this_case, engine, rows = case[0], _state["engine"], []
    with trial(engine, this_case) as this, torch.inference_mode():
        base = {"suite": suite, "case": this_case.name, "kind": this_case.kind, "number": number}
        base |= {"following": this_case.following, "erased": this_case.erased, "groups": dict(this_case.groups)}
        nothing = this.run(None)
        rows.append({**base, "order": "no erase", "share": 0.0, "kl": nothing.kl, "agrees": nothing.agrees})
        later, scores, among = orders(engine, this.read, this_case)
        change = deviations(engine, this.read, this_case.spans)[1].to(among.device)
        received = scores["received"]
        scores["largest change"] = change.square().mean(0)
        scores["largest change x received"] = change.square().mean(0) * received
        scores["largest change x root received"] = change.square().mean(0) * received.sqrt()
        scores["asked: mass x tail"] = scores["mass"] * asked(engine, this, later)

        def run(chosen: list[int]) -> Any:
            seq = engine.fork(this.read)
            try:
                done = Shift().erase(engine, seq, this_case.spans)
                engine.reencode(seq, [moved(later[i], done.moves) for i in chosen])
                return this.outcome(this.score(seq))
            finally:
                engine.free(seq)

        found = run([])
        rows.append({**base, "order": "shift", "share": 0.0, "kl": found.kl, "agrees": found.agrees})
        for share in _state["shares"]:
            count = math.ceil(share * len(later))
            chosen = {name: best(score, count) for name, score in scores.items()}
            chosen["mass, 2 hops"] = two_hops(scores["mass"], among, count)
            chosen["middle layer, 2 hops (today)"] = two_hops(
                scores["mass, middle layer"], among[[len(among) // 2]], count
            )
            chosen["a third first, then mass"] = covering(among, scores["mass"], received, count)
            chosen["a third first, then mass x root received"] = covering(
                among, scores["mass x root received"], received, count
            )
            half = best(scores["mass"], count // 2)
            weight = torch.zeros(len(later), device=among.device)
            weight[half] = change.square().mean(0).sqrt()[half]
            rest = scores["mass"] + (among.float() @ weight).mean(0)
            rest[half] = -1.0
            chosen["mass, then by change (2 rounds)"] = sorted({*half, *best(rest, count - len(half))})
            for name, indices in chosen.items():
                found = run(indices)
                rows.append({**base, "order": name, "share": share, "kl": found.kl, "agrees": found.agrees})
            for name, layers in halves(engine).items():
                found = in_part(engine, this, later, best(scores["mass"], 2 * count), layers)
                rows.append({**base, "order": name, "share": share, "kl": found.kl, "agrees": found.agrees})
        for layer in range(0, len(among), _state["every"]):
            found = run(best(_layer_mass(engine, this, later, layer), math.ceil(0.15 * len(later))))
            rows.append({**base, "order": f"layer {layer}", "share": 0.15, "kl": found.kl, "agrees": found.agrees})
        if number < _state["blocks"]:
            gains = []
            for begin in range(0, len(later), BLOCK):
                gains.append(run(list(range(begin, min(begin + BLOCK, len(later))))).kl)
            gain = torch.tensor(gains, device=among.device).repeat_interleave(BLOCK)[: len(later)]
            for share in _state["shares"]:
                found = run(best(-gain, math.ceil(share * len(later))))
                rows.append({**base, "order": "greedy blocks", "share": share, "kl": found.kl, "agrees": found.agrees})
            ranks = {name: rank_correlation(-gain, score) for name, score in scores.items()}
            rows.append({**base, "order": "rank correlation with greedy blocks", "share": 0.0, "ranks": ranks})
    return rows


def rank_correlation(gain: Any, score: Any) -> float:
    """Return Spearman's correlation of a score, summed in blocks, with what running each block again takes away."""
    import torch

    blocks = [float(part.sum()) for part in score.split(BLOCK)]
    first = gain[::BLOCK].argsort().argsort().float()
    second = torch.tensor(blocks, device=gain.device).argsort().argsort().float()
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def _layer_mass(engine: Any, this: Any, later: list[int], layer: int) -> Any:
    """Return one layer's attention mass on the spans."""
    return engine.influence(this.read, this.case.spans, layers=[layer])[1][0]


def asked(engine: Any, this: Any, later: list[int]) -> Any:
    """Return how much the tail attends to each later token, the mean over layers, heads and the tail's tokens."""
    import torch

    seq = engine.fork(this.read)
    try:
        tail = this.case.tail or (this.case.scored or (0,))[:8]
        engine.prefill(seq, tail)
        store = engine._get(seq).store
        total = len(this.case.ids) + len(tail)
        device = store.keys[0].device
        position, at = torch.arange(total, device=device), torch.tensor(later, device=device)
        rows = torch.arange(len(this.case.ids), total, device=device)
        groups, sums = store.layout.heads // store.layout.kv_heads, torch.zeros(len(later), device=device)
        for layer in range(store.layout.layers):
            keys = store.keys[layer][0, :, :total].repeat_interleave(groups, 0)
            score = (store.queries[layer][0][:, rows] @ keys.transpose(1, 2)) * engine._scaling[layer]
            score.masked_fill_(position[None, None, :] > rows[None, :, None], float("-inf"))
            sums += score.softmax(-1)[:, :, at].mean((0, 1))
        return sums
    finally:
        engine.free(seq)


def halves(engine: Any) -> dict[str, range]:
    """Return the parts of the model's layers that are run again for twice as many tokens."""
    depth = engine._layout.layers
    return {
        "2x tokens, upper half of layers": range(depth // 2, depth),
        "2x tokens, lower half of layers": range(depth // 2),
        "2x tokens, middle half of layers": range(depth // 4, depth - depth // 4),
    }


def in_part(engine: Any, this: Any, later: list[int], chosen: list[int], layers: range) -> Any:
    """Run tokens again in these layers alone; what enters the first of them is as it was at the first reading."""
    import torch

    from kv_memory.erasers.shift import Shift
    from kv_memory.positions import moved

    modules = engine._forward.model.get_decoder().layers
    if "entering" not in _state or _state["of"] is not this:
        _state.update(entering=_entering(engine, this.case), of=this)
    seq = engine.fork(this.read)
    try:
        done = Shift().erase(engine, seq, this.case.spans)
        places = [moved(later[i], done.moves) for i in chosen]
        store = engine._get(seq).store
        slots = store.find(places)
        before = store.read(slots)
        old = torch.tensor([later[i] for i in chosen])
        replaced = _state["entering"][layers.start][old] if layers.start else None

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            if replaced is None:
                return None
            hidden = replaced.to(args[0].device)[None]
            return ((hidden, *args[1:]), kwargs)

        handle = modules[layers.start].register_forward_pre_hook(hook, with_kwargs=True)
        chunk, engine._forward.chunk = engine._forward.chunk, 10**6
        try:
            engine.reencode(seq, places)
        finally:
            handle.remove()
            engine._forward.chunk = chunk
        for layer in range(store.layout.layers):
            if layer not in layers:
                store.put(layer, slots, before.keys[layer], before.values[layer])
        engine._get(seq).logits = None
        return this.outcome(this.score(seq))
    finally:
        engine.free(seq)


def _entering(engine: Any, case: Any) -> dict[int, Any]:
    """Return what enters the layers that a part begins with, of every token of the context: [tokens, width]."""
    import torch

    modules, depth = engine._forward.model.get_decoder().layers, engine._layout.layers
    found: dict[int, list[Any]] = {layer: [] for layer in (depth // 2, depth // 4, depth // 3, 2 * depth // 3)}
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


def _cases(suite: str, seed: int) -> Iterator[Any]:
    from importlib import import_module

    from kv_memory.evaluation.suites.source import Source

    kept = _state.setdefault("suites", {})
    if suite not in kept:
        make = getattr(import_module(f"kv_memory.evaluation.suites.{suite}"), suite)
        found = make(Source(_state["form"], seed=seed, longest=_state["longest"], data=Path(_state["data"])))
        kept[suite] = (found, [])
    found, cases = kept[suite]

    def walk() -> Iterator[Any]:
        at = 0
        while True:
            while len(cases) <= at:
                nxt = next(found, None)
                if nxt is None:
                    return
                cases.append(nxt)
            yield cases[at]
            at += 1

    return walk()


def table(path: Path) -> None:
    """Print what is left by order and share: the ratio of mean divergences, over cases that the span changes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    nothing = {(r["suite"], r["case"]): r["kl"] for r in rows if r["order"] == "no erase"}
    changed = {key for key, kl in nothing.items() if kl >= 0.01}
    suites = sorted({suite for suite, _ in changed})
    print("cases", {suite: sum(key[0] == suite for key in changed) for suite in suites})
    sums: dict[tuple[str, float, str], list[tuple[float, float, bool]]] = defaultdict(list)
    ranks: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        key = (row["suite"], row["case"])
        for name, value in row.get("ranks", {}).items():
            ranks[name].append(value)
        if key in changed and "kl" in row:
            sums[row["order"], row["share"], row["suite"]].append((row["kl"], nothing[key], row["agrees"]))
    for share in sorted({share for _, share, _ in sums}):
        print(f"--- share {share}")
        names = sorted({name for name, s, _ in sums if s == share})
        lines = []
        for name in names:
            cells, lefts = [], []
            for suite in suites:
                found = sums.get((name, share, suite), [])
                left = sum(f[0] for f in found) / max(1e-9, sum(f[1] for f in found))
                equal = sum(f[2] for f in found) / max(1, len(found))
                cells.append(f"{left:.3f} {equal:.2f}")
                lefts.append(left)
            lines.append((sum(lefts) / max(1, len(lefts)), name, cells))
        for mean, name, cells in sorted(lines):
            print(f"{name[:44]:44} {mean:.3f} | " + " | ".join(cells))
    print("rank correlation", {name: round(sum(v) / len(v), 3) for name, v in sorted(ranks.items())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--suites", nargs="+", default=["documents", "memory", "transcripts", "distance", "needle"])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=6, help="cases of each suite with the greedy order")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--longest", type=int, default=4096)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--every", type=int, default=1, help="try every so many single layers")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.table:
        table(args.table)
        return
    settings = {name: getattr(args, name) for name in ("blocks", "longest", "shares", "every")}
    settings["until"] = time.time() + 60 * args.minutes
    context = get_context("spawn")
    gpus = context.Manager().Queue()
    for number in range(args.processes):
        gpus.put(number % args.gpus if args.gpus else None)
    known = set()
    if args.out.exists():
        known = {(r["suite"], r["number"]) for r in map(json.loads, args.out.read_text().splitlines())}
    jobs = [(suite, number, args.seed) for number in range(args.cases) for suite in args.suites]
    jobs = [job for job in jobs if job[:2] not in known]
    with (
        context.Pool(args.processes, start, (args.model, args.data, gpus, settings)) as pool,
        args.out.open("a", encoding="utf-8") as file,
    ):
        for rows in pool.imap_unordered(measure, jobs):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()


if __name__ == "__main__":
    main()
