"""A store some of whose methods a test replaces, to stage what happens between two of its calls."""

from __future__ import annotations

from typing import Any


class HookedStore:
    """Passes everything on, but what is set in `hooks`: these get the real method and the arguments."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.hooks: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        hook = self.hooks.get(name)
        if hook is None:
            return real

        async def hooked(*args: Any, **options: Any) -> Any:
            return await hook(real, *args, **options)

        return hooked
