"""MPI: Horovod on communicators of mpi4py, and on Open MPI 4, whose library has the binary interface
of the Open MPI 5 that we are built with."""

import os

import pytest

from common import ROOT

SCRIPTS = ROOT / "tests/integration/scripts"
OPENMPI4 = ROOT / "build/openmpi4"  # by tools/openmpi4.py
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def openmpi4():
    """The environment in which Open MPI is Debian's 4."""
    if not OPENMPI4.exists():
        pytest.skip("there is no Open MPI 4: `make openmpi4` says why")
    libraries, = OPENMPI4.glob("usr/lib/*-linux-gnu")
    return {"PATH": f"{OPENMPI4}/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(libraries),
            "OPAL_PREFIX": f"{OPENMPI4}/usr",
            # It warns of drivers and of a compression that were not unpacked.
            "OMPI_MCA_mca_base_component_show_load_errors": "0",
            "PMIX_MCA_pcompress_base_silence_warning": "1"}


@pytest.mark.parametrize("framework, backend, version", [
    ("torch", "mpi", 5), ("tensorflow", "mpi", 5), ("torch", "mpi", 4),
    ("torch", "horovodrun-mpi", 4)])
def test_communicators_of_mpi4py(launch, request, framework, backend, version):
    result = launch(3, [str(SCRIPTS / "communicators.py"), f"horovod_partial.{framework}"], backend,
                    request.getfixturevalue("openmpi4") if version == 4 else None,
                    # Where libraries are is read when a process starts.
                    imported=framework if version == 5 else None)
    assert result.returncode == 0, result.output
    assert result.output.count(f"was well on ('Open MPI', ({version},") == 3, result.output
