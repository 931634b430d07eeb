"""Several jobs of Horovod that take turns on one machine, so that they can be compared in one run.

Each is started once, by horovodrun or mpirun, and its ranks then do what they are asked
(benchmarks/rank.py). Only one job runs at a time: the ranks of the others are stopped (SIGSTOP), so
that one that polls takes nothing from the one that is measured. So A and B alternate in short
blocks without the seconds that starting them costs.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Listener, wait
from pathlib import Path

from benchmarks import ROOT

UNPATCHED = ROOT / "build/unpatched/site"

# What a job's ranks import, and how the job differs from the others.
KINDS = {
    "ours": "horovod_partial, as it comes",
    "stock": "horovod of this build, synchronous, with everything of ours switched off "
             "(HOROVOD_EVENT_DRIVEN=0)",
    "unpatched": "Horovod 0.28.1 without our patches (make unpatched)",
    "mpi4py": "no Horovod: MPI alone",
}


class JobError(Exception):
    """A job that cannot go on; the message has the end of its output."""


class Job:
    """`size` ranks of one kind (KINDS) over "gloo" or "mpi"."""

    def __init__(self, kind, size, backend, env=None, start_seconds=180):
        self.kind, self.size, self.backend = kind, size, backend
        self._running = True
        self._guard = None
        self._pids = []
        self._connections = {}
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
        self._log = Path(self._folder.name) / "log"
        key = secrets.token_bytes(16)
        address = str(Path(self._folder.name) / "socket")
        self._listener = Listener(address, family="AF_UNIX", backlog=size, authkey=key)
        self._listener._listener._socket.settimeout(1)
        with open(self._log, "w") as output:
            self._launcher = subprocess.Popen(
                [*self._launch_command(), sys.executable, "-m", "benchmarks.rank", kind],
                env=self._environment(address, key, env or {}), cwd=ROOT, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            self._meet(time.monotonic() + start_seconds)
        except BaseException:
            self.close()
            raise

    def _launch_command(self):
        if self.backend == "gloo":
            return ["horovodrun", "-np", str(self.size), "--gloo"]
        return ["mpirun", "-np", str(self.size), "--oversubscribe", "--bind-to", "none"]

    def _environment(self, address, key, more):
        # Horovod's own settings of whoever measures would go into what is measured.
        env = {name: value for name, value in os.environ.items()
               if not name.startswith("HOROVOD_")}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        if self.kind == "unpatched":
            if not UNPATCHED.exists():
                raise JobError("there is no unpatched Horovod: `make unpatched` builds it")
            env["PYTHONPATH"] = str(UNPATCHED)
        env.update(PYTHONUNBUFFERED="1", OMP_NUM_THREADS="1",
                   BENCHMARKS_SOCKET=address, BENCHMARKS_KEY=key.hex(),
                   OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   # A job that is stopped for a while has not failed.
                   HOROVOD_GLOO_TIMEOUT_SECONDS="3600", HOROVOD_LOG_LEVEL="error")
        if self.backend == "mpi":
            env.update(HOROVOD_CONTROLLER="mpi", HOROVOD_CPU_OPERATIONS="mpi")
        if self.kind == "stock":
            env["HOROVOD_EVENT_DRIVEN"] = "0"
        return {**env, **more}

    def _meet(self, deadline):
        while len(self._connections) < self.size:
            if self._launcher.poll() is not None:
                self._fail("ended while it started")
            if time.monotonic() > deadline:
                self._fail("did not start in time")
            try:
                connection = self._listener.accept()
            except TimeoutError:
                continue
            rank, pid = connection.recv()
            self._connections[rank] = connection
            self._pids.append(pid)
        # Whatever becomes of this process, no rank stays stopped: it goes on, and ends.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat; kill -CONT "$@"', "guard", *map(str, self._pids)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)

    def _fail(self, what):
        raise JobError(f"the {self.kind} job of {self.size} ranks over {self.backend} {what}:\n"
                       f"{self._log.read_text()[-4000:]}")

    def call(self, function, /, *, timeout=900, **arguments):
        """`function(world, **arguments)`, a function of a module, on every rank; what the ranks
        return, in the order of ranks."""
        request = function.__module__, function.__name__, arguments
        for connection in self._connections.values():
            connection.send(request)
        answers = {}
        deadline = time.monotonic() + timeout
        missing = {connection: rank for rank, connection in self._connections.items()}
        while missing:
            ready = wait(list(missing), timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                self._fail(f"did not answer in {timeout} s")
            for connection in ready:
                rank = missing.pop(connection)
                try:
                    ok, answers[rank] = connection.recv()
                except (EOFError, ConnectionError):
                    self._fail(f"lost rank {rank} in {function.__name__}")
                if not ok:
                    raise JobError(f"rank {rank} of the {self.kind} job:\n{answers[rank]}")
        return [answers[rank] for rank in range(self.size)]

    def stop(self):
        self._signal(signal.SIGSTOP)
        self._running = False

    def resume(self):
        if not self._running:
            self._signal(signal.SIGCONT)
            self._running = True

    def _signal(self, number):
        for pid in self._pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def close(self):
        """Ends the job, in the normal way where it still can."""
        self.resume()
        for connection in self._connections.values():
            try:
                connection.send(None)
            except OSError:
                pass
        try:
            self._launcher.wait(20 if len(self._connections) == self.size else 0)
        except subprocess.TimeoutExpired:
            for pid in [*self._pids, self._launcher.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                os.killpg(self._launcher.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._launcher.wait()
        if self._guard is not None:
            self._guard.communicate()
        for connection in self._connections.values():
            connection.close()
        self._listener.close()
        self._folder.cleanup()


class Jobs:
    """Jobs by name, of which one runs at a time; a context manager that ends them all."""

    def __init__(self):
        self._jobs = {}
        self._current = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, name, kind, size, backend="gloo", env=None):
        self._turn(None)
        self._jobs[name] = Job(kind, size, backend, env)
        self._current = name
        return self

    def _turn(self, name):
        if self._current not in (None, name):
            self._jobs[self._current].stop()
        if name is not None:
            self._jobs[name].resume()
        self._current = name

    def call(self, job, function, /, *, timeout=900, **arguments):
        """As Job.call, while all other jobs are stopped."""
        self._turn(job)
        return self._jobs[job].call(function, timeout=timeout, **arguments)

    def close(self):
        self._turn(None)
        while self._jobs:
            self._jobs.popitem()[1].close()
