"""Processes that begin with the large modules imported: a rank would spend seconds on that, and many
ranks on few cores take turns. `ForkServer(modules)` starts what `subprocess.Popen` would, otherwise."""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys


class ForkServer:
    """A process that has imported `modules` and forks what it is asked for."""

    def __init__(self, *modules):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()])

    def spawn(self, command, env):
        """Runs a Python script, `command` after `python`, in this environment."""
        output, their_output = os.pipe()
        status, their_status = os.pipe()
        socket.send_fds(self._socket, [json.dumps([command, env]).encode()],
                        [their_output, their_status])
        os.close(their_output)
        os.close(their_status)
        return Forked(open(output), open(status))

    def close(self):
        self._socket.close()
        self._server.wait()


class Forked:
    """What tests use of a `subprocess.Popen`. `stdout` has stderr as well."""

    def __init__(self, stdout, status):
        self.stdout = stdout
        self._status = status
        self.pid = int(status.readline())
        self.returncode = None

    def send_signal(self, number):
        try:
            self.wait(0)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.pid, timeout)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode


def serve(connection):
    """In the server: forks until nobody asks any longer, then returns nothing. In a process that it
    has forked, returns what is to be run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not message:
            return None
        if os.fork() == 0:
            break
        for fd in fds:
            os.close(fd)
    # Between server and process is one that tells how the process ended.
    connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output, status = fds
    pid = os.fork()
    if pid != 0:
        os.close(output)
        os.write(status, f"{pid}\n".encode())
        os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    os.close(status)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    return json.loads(message)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    job = serve(socket.socket(fileno=int(sys.argv[1])))
    if job is not None:
        sys.argv, environment = job
        os.environ.clear()
        os.environ.update(environment)
        sys.path[0] = os.path.dirname(sys.argv[0])
        # Here and not in a function, so that it ends as any script does.
        with open(sys.argv[0]) as script:
            exec(compile(script.read(), sys.argv[0], "exec"), {"__name__": "__main__"})
