"""Partial collectives for Horovod.

Import ``horovod_partial.torch as hvd`` where a script imports ``horovod.torch``.
"""

import importlib.util

from horovod_partial._version import __version__

if importlib.util.find_spec("horovod_partial._core") is None:
    raise ImportError(f"{__path__[0]} holds the sources of horovod_partial, which Python finds before "
                      "the installed package: run Python in another folder")

from horovod_partial.policy import Auto, First, Full, Majority, Policy, Quorum, Solo  # noqa: E402

__all__ = ["Auto", "First", "Full", "Majority", "Policy", "Quorum", "Solo", "__version__"]
