"""Whether the processes of a remote executor can reach a handler's store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import Reach

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

log = logging.getLogger("thoughtgear")


def check_reach(handler: PromptHandler, executor: str, needs: Reach) -> None:
    """Raise `ConfigurationError` for a store in the memory of one process; warn of one on one host where the
    executor's processes may run on others (`needs="network"`)."""
    reach = handler.store.reach
    if reach == "process":
        raise ConfigurationError(
            f"{executor} needs a store that its workers can reach, and this one is in the memory of "
            "one process; use db='sqlite:///thoughtgear.db' on one host, a database over several."
        )
    if reach == "host" and needs == "network":
        log.warning(
            "%s may run on other hosts, and the store of handler %r is on this one: that is right only where "
            "all of them share its disk. Over several hosts use PostgreSQL, MongoDB or S3.",
            executor,
            handler.name,
        )
