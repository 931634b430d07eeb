"""Horovod shut down and initialized again: no abort, no stale state."""

import subprocess
import sys
from urllib.request import Request, urlopen

import pytest

from common import ROOT
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_client import put_data_into_kvstore, read_data_from_kvstore
from horovod.runner.http.http_server import RendezvousServer

SCRIPTS = ROOT / "tests/integration/scripts"
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("framework, np", [("torch", 2), ("torch", 1), ("tensorflow", 2)])
def test_several_lives_in_one_process(launch, framework, np):
    result = launch(np, [str(SCRIPTS / "again.py"), framework], imported=framework)
    assert result.returncode == 0, result.output
    assert result.output.count("had 5 lives") == np


def test_several_lives_over_mpi(launch):
    result = launch(2, [str(SCRIPTS / "again.py"), "torch", "MPI"], "mpi", imported="torch")
    assert result.returncode == 0, result.output
    assert result.output.count("had 5 lives") == 2


def test_an_mpi_that_has_ended_is_an_error(launch):
    """Horovod's own MPI ends with its first life."""
    result = launch(2, [str(SCRIPTS / "again.py"), "torch"], "mpi", imported="torch")
    assert result.returncode == 1, result.output
    assert "MPI ended with the first hvd.shutdown()" in result.output
    assert "ValueError: Horovod initialization failed" in result.output


def test_initialization_fails_and_succeeds(tmp_path):
    result = subprocess.run([sys.executable, SCRIPTS / "initialize.py"], capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "initialized twice" in result.stdout


def test_a_process_set_survives_no_rank_but_its_process_does(start, fork_server):
    job = start(3, SCRIPTS / "process_set.py", spawn=fork_server("torch").spawn)
    for rank in (0, 1):
        assert job.end(rank) == 7, "".join(job.output)


def test_a_rendezvous_forgets_when_its_last_rank_is_through():
    """Whatever other scopes do in between: what is left would be found by the next hvd.init()."""
    server = RendezvousServer()
    port = server.start()
    try:
        server.init(get_host_assignments(parse_hosts("localhost:2"), 2))
        for rank in range(2):
            put_data_into_kvstore("127.0.0.1", port, "local_localhost", rank, "an address")
        for scope, rank in (("local_localhost", 0), ("cross_0", 0), ("local_localhost", 1)):
            urlopen(Request(f"http://127.0.0.1:{port}/{scope}/{rank}", method="DELETE"))
        with pytest.raises(RuntimeError, match="404"):
            read_data_from_kvstore("127.0.0.1", port, "local_localhost", 0)
    finally:
        server.stop()
