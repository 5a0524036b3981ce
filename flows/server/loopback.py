"""No proxy between this machine and itself; called before Prefect is imported.

Where HTTP_PROXY or ALL_PROXY is set, Prefect's client would ask the proxy for the server on 127.0.0.1, which the proxy
cannot reach.
"""

from __future__ import annotations

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")
VARIABLES = ("NO_PROXY", "no_proxy")
"""Both spellings: where the two differ, programs do not agree on which counts."""


def bypass_proxies_for_loopback() -> None:
    """Add this machine's own addresses to NO_PROXY, for this process and the commands that it starts."""
    given = [host.strip() for name in VARIABLES for host in os.environ.get(name, "").split(",")]
    hosts = list(dict.fromkeys([*filter(None, given), *LOOPBACK]))
    value = "*" if "*" in hosts else ",".join(hosts)
    for name in VARIABLES:
        os.environ[name] = value
