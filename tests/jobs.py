"""Jobs without a launcher, over Gloo's rendezvous: launchers end a failing job's survivors
themselves, and know no network namespaces."""

import contextlib
import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
from horovod.runner.http.http_server import RendezvousServer


@dataclasses.dataclass(frozen=True)
class Host:
    """Where ranks run: this machine, or a network namespace of it that `inside()` enters."""

    name: str = "localhost"
    address: str = "127.0.0.1"
    interface: str = "lo"
    inside: Callable = contextlib.nullcontext
    spawn: Callable | None = None  # starts its ranks, unless all hosts' are started alike


def spawn(command, env):
    """A process that runs `command` (after `python`)."""
    return subprocess.Popen([sys.executable, *command], env=env, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


class Job:
    """`size` ranks of a command (after `python`), as many on each host; each a process of ours. The
    rendezvous is on the first host."""

    def __init__(self, size, *command, hosts=(Host(),), env=None, spawn=spawn):
        self._server = RendezvousServer()
        with hosts[0].inside():
            port = self._server.start()
        slots = get_host_assignments(
            parse_hosts(",".join(f"{host.name}:{size // len(hosts)}" for host in hosts)), size)
        self._server.init(slots)
        self.lines = queue.Queue()
        self.output = []
        self.ranks = []
        self._readers = []
        by_name = {host.name: host for host in hosts}
        for slot in slots:
            host = by_name[slot.hostname]
            run = create_run_env_vars(hosts[0].address, [host.interface], port)
            with host.inside():
                rank = (host.spawn or spawn)(
                    list(map(str, command)),
                    {**os.environ, **create_slot_env_vars(slot), "PYTHONUNBUFFERED": "1",
                     **{key: str(value) for key, value in run.items()}, **(env or {})})
            reader = threading.Thread(target=self._read, args=(rank.stdout,), daemon=True)
            reader.start()
            self._readers.append(reader)
            self.ranks.append(rank)

    def _read(self, stream):
        for line in stream:
            self.output.append(line)
            self.lines.put(line)

    def wait_for(self, *wanted, timeout=120):
        """Until each of these texts has been printed, at most so many seconds."""
        wanted = set(wanted)
        deadline = time.monotonic() + timeout
        while wanted:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                pytest.fail(f"{wanted} did not come:\n{''.join(self.output)}")
            wanted -= {text for text in wanted if text in line}

    def end(self, rank, timeout=60):
        """The exit status of a rank, which is to end by itself within so many seconds. All that it
        has printed is in `output`."""
        try:
            status = self.ranks[rank].wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"rank {rank} hangs:\n{''.join(self.output)}")
        self._readers[rank].join(timeout)
        return status

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()
        self._server.stop()
