"""Processes that begin with the large modules imported: a rank would spend seconds on that, and many
ranks on few cores take turns. `ForkServer(modules)` forks them, for tests that start ranks themselves
(`spawn`) and for launchers, which start a small process in each rank's place (`command`)."""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types

# By framework. PyTorch imports the compiler with the first optimizer; the events between the ranks
# of a test are PyTorch's.
LARGE_MODULES = {"torch": ["torch", "torch._dynamo"], "tensorflow": ["keras", "torch"]}
# What a launcher sends to the process that stands for a rank, and that goes on to the rank.
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class ForkServer:
    """A process that has imported `modules` and forks what it is asked for."""

    def __init__(self, *modules):
        self._directory = tempfile.TemporaryDirectory()
        self._path = f"{self._directory.name}/socket"
        end, self._end = os.pipe()  # the server's end comes with that of the process that started it
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._path)
            listener.listen(64)
            files = [listener.fileno(), end]
            self._server = subprocess.Popen(
                [sys.executable, "-u", __file__, "serve", *map(str, files), *modules],
                pass_fds=files, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
        os.close(end)

    def spawn(self, command, env):
        """Runs a Python script, `command` after `python`, in this environment."""
        output, their_output = os.pipe()
        with open(os.devnull) as nothing:
            connection = ask(self._path, command, env, [nothing.fileno(), their_output, their_output])
        os.close(their_output)
        return Forked(open(output), connection)

    def command(self, *command):
        """What a launcher may run in place of `python *command`: a script and its arguments."""
        return [sys.executable, "-I", "-S", __file__, "stand-in", self._path, *command]

    def close(self):
        os.close(self._end)
        self._server.wait()
        self._directory.cleanup()


class Forked:
    """What tests use of a `subprocess.Popen`. `stdout` has stderr as well."""

    def __init__(self, stdout, connection):
        self.stdout = stdout
        self._connection = connection
        self.pid = int(connection.recv(32))
        self.returncode = None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.pid, timeout)
            self.returncode = int(self._connection.recv(32))
            self._connection.close()
        return self.returncode


def ask(path, command, env, files):
    """The connection to a process that a server forks: it says its number, and how it has ended. It
    takes the numbers of signals, and does not outlive the connection."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    socket.send_fds(connection, [json.dumps([command, dict(env), os.getcwd()]).encode()], files)
    return connection


def stand_in(path, *command):
    """Stands for the process that it asks for: passes signals on, and ends as that does."""
    connection = ask(path, command, os.environ, [0, 1, 2])
    connection.recv(32)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: connection.send(b"%d" % number))
    launcher = os.getppid()
    while not select.select([connection], [], [], 1)[0]:
        if os.getppid() != launcher:  # which was killed
            os._exit(1)
    status = int(connection.recv(32) or 1)
    if status < 0:
        if -status in SIGNALS:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(listener, end):
    """In the server: forks until nobody is left who could ask, then returns nothing. In a process
    that it has forked, returns what is to be run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if end in select.select([listener, end], [], [])[0]:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    os.close(end)
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return json.loads(message)
    for file in files:
        os.close(file)
    watch(pid, connection)


def watch(pid, connection):
    """Between a forked process and who has asked for it."""
    connection.send(b"%d" % pid)
    ended = os.pidfd_open(pid)
    while ended not in select.select([ended, connection], [], [])[0]:
        number = connection.recv(32)
        os.kill(pid, int(number or signal.SIGKILL))
        if not number:
            break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        connection.send(b"%d" % status)
    finally:
        os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "stand-in":
        stand_in(*sys.argv[2:])
    for name in sys.argv[4:]:
        importlib.import_module(name)
    job = serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
    if job is None:
        os._exit(0)  # taking all the modules apart would last
    sys.argv, environment, directory = job
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[0] = os.path.dirname(sys.argv[0])
    # Here and not in a function, so that it ends as any script does.
    forks, main = sys.modules["__main__"], types.ModuleType("__main__")
    main.__file__ = sys.argv[0]
    sys.modules["__main__"] = main
    with open(sys.argv[0]) as script:
        exec(compile(script.read(), sys.argv[0], "exec"), main.__dict__)
