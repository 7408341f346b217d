"""What the sql store keeps of a run's metadata beside its body, so that `list_runs` finds runs by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any


def pairs_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return a hash for each key with its value, as JSON: 1, 1.0 and true are three values. A hash, for a
    value may be longer than an index takes."""
    return sorted(
        blake2b(json.dumps(pair, sort_keys=True).encode(), digest_size=16).hexdigest()
        for pair in metadata.items()
    )


def index_of(state_body: str, created_at: int) -> tuple[str, list[str]]:
    """Return a digest of the rows of a run, and their pairs. By the digest a commit knows whether the rows
    are right still, without a look at them; a run without metadata has neither."""
    # Read from what is stored: only so does NaN count as null, and a date as its text.
    pairs = pairs_of(json.loads(state_body)["metadata"])
    digest = blake2b(f"{created_at} {' '.join(pairs)}".encode(), digest_size=16)
    return (digest.hexdigest() if pairs else ""), pairs
