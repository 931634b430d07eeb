"""All of ``horovod.torch``, plus partial collectives.

Change ``import horovod.torch as hvd`` to ``import horovod_partial.torch as hvd``.
"""

from horovod.torch import *  # noqa: F401,F403
from horovod.torch import elastic  # noqa: F401

from horovod_partial.groups import Round, rounds  # noqa: F401
from horovod_partial.policy import (  # noqa: F401
    Auto, First, Full, Majority, Policy, Quorum, Solo)
from horovod_partial.torch.ops import (  # noqa: F401
    excused, partial_allreduce, partial_allreduce_async, partial_flush, partial_stats, poll,
    synchronize)
from horovod_partial.torch.optimizer import DistributedOptimizer  # noqa: F401
from horovod_partial.torch.summary import PartialSummary  # noqa: F401
