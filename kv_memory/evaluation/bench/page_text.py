"""The words and the style of a bench's page."""

from __future__ import annotations

from kv_memory.evaluation.bench.summary import CHANGED, TIMES_NOISE

METRICS = {
    "influence left": "The mean KL divergence from never-saw as a share of that with nothing erased: 0 is as if "
    "the span had never been there, 1 is as if nothing had been done. It is the divergence of the model's "
    "next-token distributions over never-saw's greedy answer, or over the given tokens, and its interval is a "
    "bootstrap over conversations.",
    "cases that the span changes": f"Those whose KL with nothing erased is at least {CHANGED} nats and at least "
    f"{TIMES_NOISE} times that of never-saw read in other chunks: a ratio of the others would be one of noise. "
    "Influence left, answers as never-saw's and McNemar's test are over these cases alone, and of the others the "
    "mean KL is given.",
    "as never-saw": "The share of cases in which greedy decoding gives never-saw's tokens. Its interval, as "
    "those of the other shares, is Wilson's, in which each case counts as independent.",
    "better, worse, p": "The number of cases in which this treatment alone, and in which the compared one "
    "alone, gives never-saw's tokens. p is that of McNemar's exact test, two-sided, and is not corrected for the "
    "number of rows.",
    "right again, still misled": "Of the questions that never-saw answers rightly and that the span spoils, the "
    "share that is answered rightly after the treatment, and the share that still gets the answer that only the "
    "span gives. What is in neither has some third answer.",
    "kept right": "Of the questions that are answered rightly with the span and without it, the share that "
    "still is. An eraser that breaks the text around the span loses some of them.",
    "says it is gone": "Of the questions for the erased text itself, the share whose answer says that it is not "
    "there. The others make something up, or still know it.",
    "tokens, time": "The median number of tokens that are recomputed, and the mean share of the kept tokens "
    "after the span that they are. The time is the median of the erasure alone, and its share of what reading the "
    "same conversation without the span takes.",
    "noise floor": "Never-saw read once more in passes of another size, and in another type of number where "
    "that was asked for: what rounding alone changes. Nothing can be expected to be nearer to never-saw than "
    "that.",
}
"""Names of the figures, and what they mean."""

STYLE = """
:root { color-scheme: light dark; --fg: #1c1f23; --bg: #fff; --soft: #5b626b; --line: #d9dde2; --head: #f4f6f8;
  --c0: #0067a8; --c1: #c84a00; --c2: #00805c; --c3: #b0407f; --c4: #8a6d00; --c5: #6a45a8; --c6: #5b626b; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --bg: #14171a; --soft: #a0a8b2; --line: #353b42;
  --head: #1d2125; --c0: #5cb3f0; --c1: #ff8f4d; --c2: #3ecfa0; --c3: #f08cc4; --c4: #e0bd3c; --c5: #b79af5;
  --c6: #a0a8b2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 1100px; color: var(--fg); background: var(--bg);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 1rem; }
figure { margin: 0; max-width: 520px; } figcaption { font-weight: 600; font-size: .9rem; }
figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); fill: none; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .9rem; }
.legend span { display: inline-flex; align-items: center; gap: .4rem; } .key { width: 24px; height: 12px; flex: none; }
.wide { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: right; white-space: pre; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; } thead th { background: var(--head); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--bg); font-weight: 600; }
thead th:first-child { background: var(--head); }
@media (max-width: 600px) { th:first-child { white-space: normal; min-width: 8rem; max-width: 8rem; } }
summary { cursor: pointer; font-weight: 600; margin: .75rem 0; }
.facts td { text-align: left; white-space: normal; min-width: 14rem; }
dt { font-weight: 600; margin-top: .75rem; } dd { margin: 0; max-width: 70ch; }
"""
