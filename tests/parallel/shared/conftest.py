import os

import pytest


@pytest.fixture(scope="session")
def fw():
    """The framework that the launcher wants tested. Process sets of ``hvd.init()``, by their ranks,
    are ``fw.process_sets``."""
    import frameworks

    framework = frameworks.chosen()
    hvd = framework.hvd
    wanted = os.environ.get("HOROVOD_PARTIAL_TEST_PROCESS_SETS")  # "0,1,2;1,2,3"
    if wanted is None:
        hvd.init(process_sets="dynamic")
    else:
        ranks = [tuple(map(int, some.split(","))) for some in wanted.split(";")]
        framework.process_sets = {some: hvd.ProcessSet(list(some)) for some in ranks}
        hvd.init(process_sets=list(framework.process_sets.values()))
    return framework


@pytest.fixture(scope="session")
def hvd(fw):
    return fw.hvd
