"""Identity of a model among those of its shape: a digest of some weights, and its commit on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 8
"""Numbers of each parameter that the digest covers."""


def weights_digest(model: Any) -> str | None:
    """Compute a digest of the first numbers of each parameter as bfloat16; 16 hexadecimal digits.

    It is the same whether the weights are held in bfloat16 or float32, and whatever adapters are on top; None for
    weights in another type, whose rounding differs.
    """
    return digest_of(parameter.detach() for name, parameter in model.named_parameters() if "lora_" not in name)


def digest_of(parameters: Iterable[Tensor]) -> str | None:
    """Compute the digest of parameters, or of the first SAMPLE numbers of each, in the order of `named_parameters`."""
    import torch

    digest = hashlib.sha256()
    for parameter in parameters:
        if parameter.dtype not in (torch.bfloat16, torch.float32):
            return None
        first = parameter.reshape(-1)[:SAMPLE].to(torch.bfloat16).cpu()
        digest.update(bytes(first.view(torch.uint8).tolist()))
    return digest.hexdigest()[:16]


def revision_of(name: str) -> str | None:
    """Return the commit of a hub model in this machine's cache; None for any other model or directory."""
    path = Path(name).expanduser()
    if not path.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(name, "config.json")
        except HFValidationError:
            return None
        if not isinstance(found, str):
            return None
        path = Path(found).parent
    return path.name if path.parent.name == "snapshots" else None
