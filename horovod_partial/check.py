"""Whether an installation works: 2 ranks on this machine that reduce partially.

    python -m horovod_partial.check

Each rank contributes a number of its own in every step, and the sums over all rounds have to hold
each of them exactly once. Ends with 1 and says why if something is wrong. It is the health check of
the images in docker/. On several hosts, or with other launchers, the ranks are started by hand:

    horovodrun -np 4 -H one:2,two:2 python -m horovod_partial.check --here
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys

_STEPS = 20


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m horovod_partial.check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-np", type=int, default=2, metavar="N", help="ranks to start (default: 2)")
    parser.add_argument("--policy", default="majority", help="(default: majority)")
    parser.add_argument("--framework", choices=["torch", "tensorflow"],
                        help="(default: the first of them that this build has)")
    parser.add_argument("--device", default="cpu",
                        help="where tensors are: cpu, or cuda with PyTorch, for the GPU of a rank's "
                             "number on its host (default: cpu)")
    parser.add_argument("--timeout", type=float, default=100, metavar="SECONDS",
                        help="until ranks that hang are killed (default: 100)")
    parser.add_argument("--here", action="store_true",
                        help="start nothing: this process is a rank of a launcher's")
    options = parser.parse_args(arguments)
    if options.np < 1:
        parser.error(f"argument -np: {options.np} must be at least 1")
    if options.device != "cpu" and options.framework == "tensorflow":
        parser.error(f"argument --device: {options.device} is for PyTorch alone")
    return _rank(options) if options.here else _start(options)


def _start(options):
    """Starts this check on the ranks; their exit status."""
    command = [sys.executable, "-m", "horovod.runner.launch", "-np", str(options.np), "--gloo",
               sys.executable, "-m", "horovod_partial.check", "--here",
               "--policy", options.policy, "--device", options.device]
    if options.framework:
        command += ["--framework", options.framework]
    # A job around this check, and its files, are not the check's.
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("HOROVOD_", "OMPI_", "PMIX_", "SLURM_"))}
    ranks = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return ranks.wait(options.timeout)
    except subprocess.TimeoutExpired:
        os.killpg(ranks.pid, signal.SIGKILL)
        ranks.wait()
        print(f"failed: the ranks had not ended after {options.timeout:g} s", file=sys.stderr)
        return 1


def _rank(options):
    framework, hvd = _module(options.framework)
    hvd.init()
    device = options.device
    if device == "cuda":
        device = f"cuda:{hvd.local_rank()}"
    mine = _tensor(framework, hvd.rank() + 1.0, device)
    rounds, total = 0, 0.0
    for _ in range(_STEPS):
        answer = hvd.partial_allreduce([mine], "check", policy=options.policy, op=hvd.Sum,
                                       staleness_bound=4, catch_up="replay")
        rounds += len(answer)
        total += sum(float(answered.tensors[0][0]) for answered in answer)
    flushed = hvd.partial_flush("check")
    rounds += len(flushed)
    total += sum(float(answered.tensors[0][0]) for answered in flushed)
    synchronous = float(hvd.allreduce(mine, op=hvd.Sum, name="check.synchronous")[0])
    each = hvd.size() * (hvd.size() + 1) / 2
    if total != _STEPS * each or synchronous != each:
        print(f"failed: on rank {hvd.rank()} the rounds hold {total} and not {_STEPS * each}, an "
              f"allreduce {synchronous} and not {each}", file=sys.stderr, flush=True)
        return 1
    if hvd.rank() == 0:
        print(f"ok: {hvd.size()} ranks, {rounds} partial rounds ({options.policy}) of {framework} on "
              f"{options.device}; each of {_STEPS * hvd.size()} contributions counted once",
              flush=True)
    return 0


def _module(framework):
    """The framework's name and our module for it."""
    errors = []
    for name in [framework] if framework else ["torch", "tensorflow"]:
        try:
            return name, importlib.import_module(f"horovod_partial.{name}")
        except ImportError as error:
            errors.append(f"{name}: {error}")
    sys.exit(f"failed: this build has no framework that can be imported: {'; '.join(errors)}")


def _tensor(framework, value, device):
    if framework == "torch":
        import torch
        return torch.full((1000,), value, dtype=torch.float64, device=device)
    import tensorflow as tf
    return tf.fill([1000], tf.constant(value, tf.float64))


if __name__ == "__main__":
    sys.exit(main())
