"""One rank of the parallel tests: `python run_rank.py [pytest arguments]` under a launcher.

Leaves through sys.exit, so that a failing rank ends the job for all ranks at once.
"""

import sys

import pytest

status = pytest.main(["-x", "-q", "--timeout=120", "--timeout-method=thread", "-p",
                      "no:cacheprovider", *sys.argv[1:]])
# Looked up here and not before: horovod_partial has put its own there.
sys.exit(status)
