"""All of ``horovod.tensorflow``, plus partial collectives.

Change ``import horovod.tensorflow as hvd`` to ``import horovod_partial.tensorflow as hvd``.
"""

from horovod.tensorflow import *  # noqa: F401,F403

from horovod_partial.groups import Round, rounds  # noqa: F401
from horovod_partial.policy import (  # noqa: F401
    Auto, First, Full, Majority, Policy, Quorum, Solo)
from horovod_partial.tensorflow.distributed import (  # noqa: F401
    DistributedGradientTape, DistributedOptimizer)
from horovod_partial.tensorflow.gradients import flush_gradients  # noqa: F401
from horovod_partial.tensorflow.ops import (  # noqa: F401
    StackedRounds, excused, partial_allreduce, partial_flush, partial_stats)

# Horovod's module of this name, where it has been imported, is not ours.
globals().pop("keras", None)
