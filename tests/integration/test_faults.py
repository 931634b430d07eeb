"""Ranks that die, and ranks that stand still for a while. Launchers end the survivors themselves, so
these workers run without one, over Gloo's rendezvous."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

from common import ROOT
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
from horovod.runner.http.http_server import RendezvousServer

SCRIPT = ROOT / "tests/integration/scripts/survivor.py"
pytestmark = pytest.mark.timeout(300)


class Job:
    """`size` ranks of a script on this machine, each a process of ours."""

    def __init__(self, size, *command):
        self._server = RendezvousServer()
        port = self._server.start()
        slots = get_host_assignments(parse_hosts(f"localhost:{size}"), size)
        self._server.init(slots)
        self.lines = queue.Queue()
        self.output = []
        self.ranks = []
        for slot in slots:
            env = {**os.environ, **create_slot_env_vars(slot), "PYTHONUNBUFFERED": "1",
                   **{key: str(value) for key, value in create_run_env_vars(
                       "127.0.0.1", ["lo"], port).items()}}
            rank = subprocess.Popen([sys.executable, *map(str, command)], env=env, text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            threading.Thread(target=self._read, args=(rank.stdout,), daemon=True).start()
            self.ranks.append(rank)

    def _read(self, stream):
        for line in stream:
            self.output.append(line)
            self.lines.put(line)

    def wait_for(self, *wanted):
        """Until each of these texts has been printed."""
        wanted = set(wanted)
        deadline = time.monotonic() + 120
        while wanted:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                pytest.fail(f"{wanted} did not come:\n{''.join(self.output)}")
            wanted -= {text for text in wanted if text in line}

    def end(self, rank):
        """The exit status of a rank, which is to end by itself."""
        try:
            return self.ranks[rank].wait(60)
        except subprocess.TimeoutExpired:
            pytest.fail(f"rank {rank} hangs:\n{''.join(self.output)}")

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()
        self._server.stop()


@pytest.fixture
def start():
    jobs = []

    def begin(*args):
        jobs.append(Job(*args))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()


@pytest.mark.parametrize("framework, victim", [("torch", 0), ("torch", 2), ("tensorflow", 1)])
def test_a_killed_rank_is_an_error_on_all_others(start, framework, victim):
    job = start(3, SCRIPT, framework, 0)
    job.wait_for(*[f"rank {rank} did step 20" for rank in range(3)])
    job.ranks[victim].kill()
    for rank in set(range(3)) - {victim}:
        assert job.end(rank) == 7, "".join(job.output)
    job.wait_for(*[f"rank {rank} noticed" for rank in set(range(3)) - {victim}])


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_rank_that_stands_still_loses_nothing(start, framework):
    steps = 400
    job = start(3, SCRIPT, framework, steps)
    job.wait_for(*[f"rank {rank} did step 1" for rank in range(3)])
    job.ranks[1].send_signal(signal.SIGSTOP)
    time.sleep(5)  # not to order events: this is the standstill
    job.ranks[1].send_signal(signal.SIGCONT)
    for rank in range(3):
        assert job.end(rank) == 0, "".join(job.output)
    results = [line.split("has ")[1] for line in job.output if " has " in line]
    assert len(results) == 3 and len(set(results)) == 1, job.output
    assert results[0].startswith(f"{float(steps * 7)} after"), results
