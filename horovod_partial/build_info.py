"""What ``horovodrun --check-build`` says of us."""

from horovod.common import util

from horovod_partial._version import __version__

__all__ = ["__version__", "partial_built"]


def partial_built(verbose=False):
    """Whether the native libraries of some framework have the partial collectives."""
    def has(extension):
        return hasattr(extension.mpi_ops._basics.MPI_LIB_CTYPES, "horovod_partial_ask")

    return any(
        util._check_extension_lambda(framework, has, "built with partial collectives", verbose)
        for framework in util.EXTENSIONS)
