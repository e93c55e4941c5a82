"""The command line's entry point: each command has a file beside this one.

Nothing here, or at the top of those files, imports torch: `kv-memory --help` is quick.
"""

from __future__ import annotations

import sys

import typer

from kv_memory.cli.audit import audit
from kv_memory.cli.bench import NAMES, bench
from kv_memory.cli.calibrate import calibrate
from kv_memory.cli.demo import demo
from kv_memory.cli.export_gguf import export_gguf
from kv_memory.cli.leakage import leakage
from kv_memory.cli.replay import replay
from kv_memory.cli.train_eraser import train_eraser
from kv_memory.engines.threads import wait_passively
from kv_memory.errors import KVMemoryError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (demo, replay, calibrate):
    app.command()(command)
app.command("train-eraser")(train_eraser)
app.command("export-gguf")(export_gguf)
evaluate = typer.Typer(no_args_is_help=True, help="Measure erasers against a model that never saw the span.")
for suite, within in NAMES.items():
    evaluate.command(suite, help=within)(bench)
evaluate.command()(leakage)
app.add_typer(evaluate, name="eval")
app.add_typer(audit, name="audit")


@app.callback()
def _root() -> None:
    """Erase what a local LLM should not have read from its KV cache, after it was read."""


def main() -> None:
    """Run a command; print an error of the library as one line on standard error, with exit code 2."""
    wait_passively()
    try:
        app()
    except KVMemoryError as error:
        print(f"kv-memory: {error}", file=sys.stderr)
        sys.exit(2)
