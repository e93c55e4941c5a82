"""Draw the plots of docs/ from the result files.

python -m benchmarks.plots [influence] [localisation] [calibration]

Needs matplotlib (`pip install -e .[bench]`). Bars and bands are 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.record import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
CALIBRATION = Path(__file__).parents[1] / "kv_memory" / "pocket" / "model" / "calibration.json"
KS = (16, 32, 64, 128)
mpl.rcParams.update({"svg.hashsalt": "kv_memory", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def influence() -> None:
    """Plot residual influence and points below never-saw, by k and length; and by probe layer."""
    result = _load("influence")
    lengths = result["lengths"]
    figure, axes = plt.subplots(2, len(lengths), figsize=(3 * len(lengths), 5), sharey="row", squeeze=False)
    for column, (tokens, table) in enumerate(lengths.items()):
        rows = table["all"]
        for name, colour in (("influence", "C0"), ("shift+influence", "C1")):
            found = [rows[f"{name} {k}"] for k in KS]
            _band(axes[0, column], KS, [row["residual_influence"] for row in found], name, colour)
            axes[1, column].plot(KS, [row["points_below_never_saw"] for row in found], "o-", color=colour, label=name)
        for name, style in (("drop", ":"), ("repair", "--"), ("selective", "-.")):
            axes[0, column].axhline(rows[name]["residual_influence"]["value"], color="grey", ls=style, label=name)
            axes[1, column].axhline(rows[name]["points_below_never_saw"], color="grey", ls=style, label=name)
        axes[0, column].set(title=f"{int(tokens):,} tokens", yscale="log")
        axes[1, column].set(xlabel="tokens recomputed")
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.set_xticks(KS, [str(k) for k in KS])
    axes[0, 0].set_ylabel("residual influence")
    axes[1, 0].set_ylabel("points below never-saw")
    axes[1, -1].legend(fontsize=7)
    _save(figure, "influence-by-k")

    figure, axis = plt.subplots(figsize=(6, 3))
    for number, (tokens, table) in enumerate(lengths.items()):
        rows = table["binding"]
        layers = sorted(int(name.removeprefix("layer ")) for name in rows if name.removeprefix("layer ").isdigit())
        if layers:  # not every length has tried them
            found = [rows[f"layer {layer}"]["residual_influence"] for layer in layers]
            _band(axis, layers, found, f"{int(tokens):,} tokens", f"C{number}")
            axis.set_xticks(layers)
    axis.set(xlabel="probe layer", ylabel="residual influence, binding", yscale="log")
    axis.legend(fontsize=7)
    _save(figure, "influence-by-layer")


def localisation() -> None:
    """Plot the share of all change that the top tokens carry, by layer, and what repairing them leaves."""
    sources = _load("localisation")["sources"]
    figure, axes = plt.subplots(1, len(sources), figsize=(4 * len(sources), 3), sharey=True, squeeze=False)
    for axis, (source, found) in zip(axes[0], sources.items(), strict=True):
        for number, (share, layers) in enumerate(found["share_of_change"].items()):
            names = [name for name in layers if name not in ("0", "all")]  # nothing changes in the first layer
            _band(axis, [int(name) for name in names], [layers[name] for name in names], f"top {share}", f"C{number}")
        axis.set(title=f"{source}, {found['transcripts']} transcripts", xlabel="layer", ylim=(0, 1))
    axes[0, 0].set_ylabel("share of all KV change")
    axes[0, -1].legend(fontsize=7)
    _save(figure, "localisation-by-layer")

    figure, axes = plt.subplots(1, len(sources), figsize=(5 * len(sources), 4), sharey=True, squeeze=False)
    for axis, (source, found) in zip(axes[0], sources.items(), strict=True):
        for number, (what, rows) in enumerate(found["residual_influence"].items()):
            at = [i + 0.35 * number for i in range(len(rows))]
            errors = [
                [max(0.0, r["value"] - r["low"]) for r in rows.values()],
                [max(0.0, r["high"] - r["value"]) for r in rows.values()],
            ]
            axis.barh(at, [r["value"] for r in rows.values()], height=0.35, xerr=errors, label=what)
            axis.set_yticks(range(len(rows)), list(rows))
        axis.set(title=source, xlabel="residual influence")
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize=7)
    _save(figure, "localisation-residual")


def calibration() -> None:
    """Plot what every eraser leaves behind against its time, means over span lengths, by suffix length."""
    result = json.loads(CALIBRATION.read_text())
    lengths = sorted({row["following"] for row in result["fidelity"]})
    erasers = dict.fromkeys(row["eraser"] for row in result["fidelity"])
    kinds = list(dict.fromkeys(name.split()[0] for name in erasers))
    took, left = defaultdict(list), defaultdict(list)
    for row in result["latency"]:
        took[row["eraser"], row["following"]].append(row["milliseconds"])
    for row in result["fidelity"]:
        left[row["eraser"], row["following"]].append(row["residual"]["value"])
    figure, axes = plt.subplots(1, len(lengths), figsize=(3.2 * len(lengths), 3.2), sharey=True, squeeze=False)
    for axis, length in zip(axes[0], lengths, strict=True):
        for number, kind in enumerate(kinds):
            names = [name for name in erasers if name.split()[0] == kind]  # with several k: a line
            x, y = ([mean(found[name, length]) for name in names] for found in (took, left))
            axis.plot(x, y, "o-", color=f"C{number}", label=kind, markersize=4)
        axis.set(title=f"{length:,} tokens follow", xscale="log", xlabel="milliseconds")
    axes[0, 0].set_ylabel("residual influence")
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    _save(figure, "calibration")


def _band(axis: Axes, x: Any, rows: list[dict[str, float]], label: str, colour: str) -> None:
    axis.plot(x, [row["value"] for row in rows], "o-", color=colour, label=label)
    axis.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.2, lw=0)


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(DOCS / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    print(f"wrote docs/{name}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plots", nargs="*", default=["influence", "localisation", "calibration"])
    draw = {"influence": influence, "localisation": localisation, "calibration": calibration}
    for name in parser.parse_args().plots:
        draw[name]()


if __name__ == "__main__":
    main()
