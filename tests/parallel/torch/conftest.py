import pytest
import torch


@pytest.fixture(scope="session")
def hvd():
    import horovod_partial.torch as hvd

    torch.set_num_threads(1)
    hvd.init(process_sets="dynamic")
    return hvd
