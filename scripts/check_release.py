"""Check what is in the distributions that were built: scripts/check_release.py dist SOURCE."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

UNWANTED = re.compile(r"(^|/)(tests?|benchmarks|pocket_training|runs|__pycache__)/")
PACKAGES = {"kv_memory": ".", "langchain_kv_memory": "integrations/langchain"}
"""Where each is in the source."""


def contents(path: Path) -> list[str]:
    """Return the files of a wheel, or of a source distribution without its top folder."""
    if path.suffix == ".whl":
        return [name for name in zipfile.ZipFile(path).namelist() if not name.endswith("/")]
    with tarfile.open(path) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


def faults(path: Path, source: Path) -> list[str]:
    """Return what is missing of the package, its models and word lists too, and what should not be there."""
    files = contents(path)
    package = path.name.partition("-")[0]
    home = source / PACKAGES[package]
    wanted = [str(file.relative_to(home)) for file in sorted((home / package).rglob("*")) if file.is_file()]
    missing = [f"lacks {name}" for name in wanted if name not in files]
    return missing + [f"has {name}" for name in files if UNWANTED.search(name)]


def main(folder: Path, source: Path) -> None:
    """Print the size of each distribution; exit with what is wrong."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz")))
    if len(found) != 2 * len(PACKAGES):
        sys.exit(f"{folder} has {len(found)} distributions in place of {2 * len(PACKAGES)}.")
    for path in found:
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {len(contents(path))} files")
    wrong = [f"{path.name} {fault}" for path in found for fault in faults(path, source)]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
