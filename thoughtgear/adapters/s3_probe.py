"""The probe: whether a server honours the conditions of writes on which the S3 store relies.

It puts the bytes that an object has anyway, so that a server which fails the probe has lost nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from botocore.exceptions import ClientError

from thoughtgear.errors import ConfigurationError, StoreUnavailableError

TRIES = 20
"""How often the current tag is put anew that another process, which probes too, has changed meanwhile."""

_NO_ETAG = '"00000000000000000000000000000000"'
_REMEDY = "Use a server with conditional writes, as S3's own."


class Probe:
    """Probes one object. `put` writes its bytes over the ETag given (None: over none) and returns the new
    ETag, or None where the condition failed; `tag` returns the ETag that it has; `address` names the
    bucket."""

    def __init__(self, put: Callable[[str | None], str | None], tag: Callable[[], str], address: str) -> None:
        self._put, self._tag, self._address = put, tag, address

    def run(self) -> None:
        """Two writes that must fail, then one that must not. Raises `ConfigurationError` that says which
        was not as it must be, and what the server answered."""
        self._must_fail("If-None-Match", None)
        self._must_fail("If-Match", _NO_ETAG)
        self._must_pass()

    def _must_fail(self, name: str, replaces: str | None) -> None:
        refused, said = self._tried(replaces)
        if said or not refused:
            how = said or "it wrote over an object that it had to leave"
            raise ConfigurationError(
                f"{self._address} does not honour {name} in PutObject ({how}): two writers would overwrite "
                f"each other. {_REMEDY}"
            )

    def _must_pass(self) -> None:
        for _ in range(TRIES):
            current = self._tag()
            refused, said = self._tried(current)
            if not (said or refused):
                return
            if said or self._tag() == current:
                raise ConfigurationError(
                    f"{self._address} refuses If-Match in PutObject with the object's own ETag "
                    f"({said or 'it says that the condition failed'}): no commit would succeed. {_REMEDY}"
                )
        raise StoreUnavailableError(f"{self._address} can't be probed: others write the same object.")

    def _tried(self, replaces: str | None) -> tuple[bool, str]:
        """Return whether the condition failed, and what the server says that does not know it."""
        try:
            return self._put(replaces) is None, ""
        except ClientError as exc:
            status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(exc.response.get("Error", {}).get("Code", ""))
            if status == 501 or code in ("NotImplemented", "InvalidArgument"):
                return False, f"it answered {code[:40]}, {status}"
            raise
