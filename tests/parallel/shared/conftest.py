import pytest


@pytest.fixture(scope="session")
def fw():
    """The framework that the launcher wants tested."""
    import frameworks

    framework = frameworks.chosen()
    framework.hvd.init(process_sets="dynamic")
    return framework


@pytest.fixture(scope="session")
def hvd(fw):
    return fw.hvd
