"""How rounds went, for TensorBoard."""

from horovod_partial.groups import PartialOptimizer
from horovod_partial.participation import Participation


class PartialSummary:
    """Writes how rounds went on this rank as scalars, under the names that Keras's
    ``ParticipationCallback`` has: ``partial_round``, ``partial_mean_active``,
    ``partial_staleness``, ``partial_late`` and ``partial_wait_seconds``, each since the last call.

    .. code-block:: python

        writer = torch.utils.tensorboard.SummaryWriter(f"logs/rank-{hvd.rank()}")
        summary = hvd.PartialSummary(writer, optimizer)
        for epoch in range(epochs):
            ...
            summary.log()

    Args:
        writer: what has ``add_scalar(tag, value, global_step)``.
        optimizer: a partial ``hvd.DistributedOptimizer``.

    Raises:
        ValueError: ``optimizer`` is not partial.
    """

    def __init__(self, writer, optimizer):
        if not isinstance(optimizer, PartialOptimizer):
            raise ValueError(f"optimizer={optimizer!r} is not a partial hvd.DistributedOptimizer")
        self._writer = writer
        self._participation = Participation(optimizer)

    def log(self, step=None):
        """Writes the scalars at this global step; None: at the number of rounds applied."""
        scalars = self._participation.since()
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, scalars["partial_round"] if step is None else step)
