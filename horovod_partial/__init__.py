"""Partial collectives for Horovod.

Import ``horovod_partial.torch as hvd`` where a script imports ``horovod.torch``.
"""

from horovod_partial._version import __version__
from horovod_partial.policy import First, Full, Majority, Policy, Quorum, Solo

__all__ = ["First", "Full", "Majority", "Policy", "Quorum", "Solo", "__version__"]
