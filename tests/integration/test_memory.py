"""Memory over many rounds."""

import os
import re

import pytest

from common import ROOT

ROUNDS = int(os.environ.get("HOROVOD_PARTIAL_TEST_ROUNDS", "2000"))


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
@pytest.mark.timeout(1200)
def test_memory_stays_flat(launch, framework):
    """With ranks late at random, and one that falls far behind while excused."""
    result = launch(2, [str(ROOT / "tests/soak/memory.py"), "--rounds", str(ROUNDS)],
                    env={"HOROVOD_PARTIAL_TEST_FRAMEWORK": framework}, timeout=1100)
    assert result.returncode == 0, result.output
    assert len(re.findall(r"rank \d: \d+ rounds of each group, merged \[\d+, \d+\]",
                          result.output)) == 2, result.output
