import dataclasses
import functools
import os
import shutil

import pytest

from forks import LARGE_MODULES, ForkServer

if os.geteuid() != 0:
    MISSING = "network namespaces need root"
elif shutil.which("ip") is None:
    MISSING = "network namespaces need ip (package iproute2)"
elif not os.path.exists("/dev/net/tun"):
    MISSING = "there is no /dev/net/tun"
else:
    MISSING = None


@pytest.fixture(scope="module")
def link():
    """A slow and lossy link between two hosts."""
    if MISSING:
        pytest.skip(MISSING)
    from link import Link

    try:
        made = Link(delay=0.005, loss=0.01)
    except PermissionError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def hosts(link):
    """`hosts(framework)`: both ends of the link, whose ranks begin with the framework imported."""
    servers = []

    def hosts_with(framework):
        made = []
        for host in link.hosts:
            with host.inside():
                servers.append(ForkServer(*LARGE_MODULES[framework]))
            made.append(dataclasses.replace(host, spawn=servers[-1].spawn))
        return made

    yield functools.cache(hosts_with)
    for server in servers:
        server.close()
