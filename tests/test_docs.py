"""README and docs: every Python block and command runs, or its program accepts it; links and names are right."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from kv_memory.cli.app import app
from kv_memory.cli.demo import MESSAGES
from kv_memory.erasers import ERASERS
from kv_memory.pocket import model_path
from kv_memory.testing.models import CHAT_HYBRID, save_model

ROOT = Path(__file__).parents[1]
README, LANGCHAIN = ROOT / "README.md", ROOT / "integrations" / "langchain" / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/results/README.md")]

STAND_INS = {"path/or/hub-id": model_path(), "path/to/eraser": model_path() / "eraser"}
"""What a page leaves to the reader, and what it is here."""
SHELL_STAND_INS = STAND_INS | {"MODEL_DIR": model_path(), "ERASER_DIR": model_path() / "eraser"}
HYBRID = "path/to/hybrid"
"""A model with recurrent layers, which is made where a page names one."""
NEEDS = {"langchain_kv_memory": "langchain_kv_memory", "model.gguf": "llama_cpp"}
"""What a page that says this needs to be installed."""
LONG = ("calibrate", "train-eraser", "eval")
"""Commands that take minutes at least: their options are parsed, and they are not run."""
TEXTS = {page: page.read_text() for page in [README, LANGCHAIN, *DOCS, *OTHERS]}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of each fenced block."""
    return [(token.info, token.content) for token in MarkdownIt().parse(TEXTS[page]) if token.type == "fence"]


def shell(page: Path) -> list[list[str]]:
    """The words of each command of a page."""
    lines = [line for info, text in blocks(page) if info == "sh" for line in text.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The folder with the pocket model and its eraser as GGUF files, made when they are first wanted."""
    folder = tmp_path_factory.mktemp("gguf")

    def make() -> Path:
        if not (folder / "model.gguf").exists():
            kv_memory("export-gguf", "--out", str(folder / "model.gguf"))
            kv_memory("export-gguf", "pocket", "--out", str(folder / "eraser.gguf"))
        return folder

    return make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: Callable[[], Path]) -> Callable[[Path], None]:
    """Makes a folder that has the files which a page names, and goes there."""

    def prepare(page: Path) -> None:
        monkeypatch.chdir(tmp_path)
        Path("conversation.json").write_text(json.dumps(MESSAGES))
        Path("policy.toml").write_text("")
        for info, text in blocks(page):
            named = re.match(r"# (\S+)\n", text)
            if info == "toml" and named:
                Path(named[1]).write_text(text)
        if HYBRID in TEXTS[page]:
            save_model(CHAT_HYBRID, Path(HYBRID))
        for name in ("model.gguf", "eraser.gguf"):  # unless a command of the page writes it
            if name in TEXTS[page] and f"--out {name}" not in TEXTS[page]:
                copyfile(gguf() / name, name)

    return prepare


def kv_memory(*words: str) -> None:
    """Run a command in this process."""
    assert not get_command(app)(list(words), "kv-memory", standalone_mode=False)


def parse(words: Sequence[str]) -> None:
    """Read a command's arguments as it would, without running it."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def run_shell(text: str) -> None:
    """Run the commands of kv-memory in a block; the others are looked at in `test_commands_are_accepted`."""
    for placeholder, value in SHELL_STAND_INS.items():
        text = text.replace(placeholder, str(value))
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].endswith("kv-memory") and words[1] not in LONG:
            kv_memory(*words[1:])


def run_python(text: str, page: Path, names: dict[str, object]) -> None:
    for placeholder, value in STAND_INS.items():
        text = text.replace(placeholder, str(value))
    exec(compile(text, name_of(page), "exec"), names)


def example() -> str:
    """The README's first block, which all pages go on from."""
    return next(text for info, text in blocks(README) if info == "python")


def test_the_readme_example_says_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    run_python(example(), README, {})
    before, report, after = capsys.readouterr().out.splitlines()
    assert before == "delivered"
    assert report.split()[0] == "exact"
    assert after == "unknown"


@pytest.mark.parametrize("page", [page for page in [README, *DOCS] if blocks(page)], ids=name_of)
def test_every_block_runs(page: Path, here: Callable[[Path], None]) -> None:
    for said, module in NEEDS.items():
        if said in TEXTS[page]:
            pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
    here(page)
    names: dict[str, object] = {}
    if page != README and "```python" in TEXTS[page]:
        run_python(example(), README, names)
    for info, text in blocks(page):
        if info == "python":
            run_python(text, page, names)
        elif info == "sh":
            run_shell(text)


def test_the_langchain_example_runs() -> None:
    pytest.importorskip("langchain_kv_memory", reason="langchain_kv_memory is not installed")
    first, *fragments = [text for info, text in blocks(LANGCHAIN) if info == "python"]
    run_python(first, LANGCHAIN, {})
    for text in fragments:  # these leave names to the reader; the package's tests run what they show
        compile(text, name_of(LANGCHAIN), "exec")


@pytest.mark.parametrize("page", [p for p in TEXTS if shell(p)], ids=name_of)
def test_commands_are_accepted(page: Path) -> None:
    for words in shell(page):
        program, *rest = words
        if program.endswith("kv-memory"):
            parse(rest)
        elif program == "torchrun":
            parse(rest[rest.index("kv_memory") + 1 :])
        elif program == "make":
            subprocess.run(["make", "--dry-run", *rest], cwd=ROOT, check=True, capture_output=True)
        elif program in ("pip", ".venv/bin/pip") and rest[0] == "install":
            for requirement in rest[1:]:
                check_requirement(requirement)
        elif program == ".venv/bin/python":
            assert (ROOT / rest[0]).is_file(), words
        elif program == "hf":
            assert rest[0] == "download"
            assert rest[1].endswith("-GGUF")
        elif program == "pre-commit":
            assert (ROOT / ".pre-commit-config.yaml").is_file()
        else:
            pytest.fail(f"no rule for {shlex.join(words)}")


def check_requirement(requirement: str) -> None:
    """A package of this checkout has the extra that is asked for; of others only these two are named."""
    path, _, extra = requirement.removesuffix("]").partition("[")
    if path in ("torch", "pre-commit"):
        return
    project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
    assert not extra or extra in project["optional-dependencies"], requirement


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text())
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(TEXTS[page]):
        for child in token.children or []:
            target = child.attrs.get("href") or child.attrs.get("src")
            if target and "://" not in str(target):
                yield str(target)


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_eraser_is_in_the_table() -> None:
    listed = re.findall(r"^\| `([\w+]+)`", (ROOT / "docs" / "erasers.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(ERASERS)


def test_the_readme_is_short() -> None:
    assert len(TEXTS[README].splitlines()) <= 130


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_page_is_in_both_lists_of_pages(page: Path) -> None:
    if page.name != "README.md":
        assert f"]({page.name})" in TEXTS[ROOT / "docs" / "README.md"]
        assert f"](docs/{page.name})" in TEXTS[README]
