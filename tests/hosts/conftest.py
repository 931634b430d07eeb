import os
import shutil

import pytest

if os.geteuid() != 0:
    MISSING = "network namespaces need root"
elif shutil.which("ip") is None:
    MISSING = "network namespaces need ip (package iproute2)"
elif not os.path.exists("/dev/net/tun"):
    MISSING = "there is no /dev/net/tun"
else:
    MISSING = None


@pytest.fixture
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
