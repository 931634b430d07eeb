"""What partial collectives gain and cost, measured beside stock Horovod: `python -m benchmarks`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m` puts this folder first, where the sources of horovod_partial are; what is installed is
# what is to be measured.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT] + [str(ROOT)]
