"""One rank of the parallel tests: `python run_rank.py [pytest arguments]` under a launcher.

Leaves through sys.exit, so that a failing rank ends the job for all ranks at once.
"""

import sys

import pytest

sys.exit(pytest.main(["-x", "-q", "--timeout=120", "--timeout-method=thread", "-p",
                      "no:cacheprovider", *sys.argv[1:]]))
