"""An ssh server and a SLURM of one node for tests, on this machine alone.

What is not installed comes from build/services (tools/services.py), laid over /usr in a mount
namespace, which needs root. Each has files, ports and keys of its own, in a folder of the test's.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading

import pytest

from common import ROOT

UNPACKED = ROOT / "build/services/usr"
_OVERLAY = 'mount -t overlay overlay -o "lowerdir=$0:/usr" /usr && exec "$@"'


def command_prefix(*programs):
    """What to put before a command for these programs to be there; skips the test if they cannot."""
    if all(shutil.which(program, path="/usr/sbin:/usr/bin") for program in programs):
        return []
    if not UNPACKED.exists():
        pytest.skip(f"there is no {' and no '.join(programs)}: `make services` says why")
    prefix = ["unshare", "--mount", "sh", "-c", _OVERLAY, str(UNPACKED)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace to lay packages over /usr in: {tried.stderr.strip()}")
    return prefix


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, log, said, env=None):
    """A server, from the moment when it has written `said` to its log file."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
    stop = threading.Event()
    try:
        for _ in range(600):
            if said in log.read_text():
                break
            if process.poll() is not None:
                pytest.fail(f"{command[-1]} did not start:\n{log.read_text()}")
            stop.wait(0.05)
        else:
            pytest.fail(f"{command[-1]} did not say {said!r}:\n{log.read_text()}")
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def ssh_server(directory):
    """An ssh server on 127.0.0.2, which horovodrun takes for another host; its port. `directory`
    has the file `key`, and `bin/ssh`, an ssh that keeps to that folder."""
    prefix = command_prefix("sshd")
    for key in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)],
                       check=True)
    (directory / "bin").mkdir()
    wrapper = directory / "bin/ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F /dev/null -o LogLevel=ERROR '
                       f'-o UserKnownHostsFile={directory}/known_hosts "$@"\n')
    wrapper.chmod(0o755)
    os.makedirs("/run/sshd", exist_ok=True)
    port = free_port()
    options = [f"AuthorizedKeysFile={directory}/key.pub", "ListenAddress=127.0.0.2", "PidFile=none",
               "UsePAM=no", "StrictModes=no", "PasswordAuthentication=no"]
    command = [*prefix, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port),
               "-h", str(directory / "host_key")]
    for option in options:
        command += ["-o", option]
    with running(command, directory / "sshd.log", "Server listening"):
        yield port


SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""


@contextlib.contextmanager
def slurm(directory):
    """A SLURM of this machine with 4 CPUs; gives the prefix of its commands, and their environment."""
    prefix = command_prefix("slurmctld", "slurmd", "srun")
    host = socket.gethostname().split(".")[0]
    for folder in ("state", "spool"):
        (directory / folder).mkdir()
    config = directory / "slurm.conf"
    config.write_text(SLURM.format(host=host, directory=directory,
                                   ports=[free_port(), free_port()]))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with (running([*prefix, "/usr/sbin/slurmctld", "-D"], directory / "slurmctld.log",
                  "Running as primary controller", environment),
          running([*prefix, "/usr/sbin/slurmd", "-D"], directory / "slurmd.log",
                  "slurmd started", environment)):
        yield prefix, {"SLURM_CONF": str(config)}
