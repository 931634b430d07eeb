"""Whether a wheel works where nothing else is: `wheel_check.py DIST DIRECTORY`.

Installs the newest wheel in DIST, and PyTorch as requirements/run.txt has it, in a new virtual
environment in DIRECTORY, and reduces partially on 2 ranks there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(dist, directory):
    wheels = sorted(Path(dist).glob("horovod-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit(f"error: there is no wheel in {dist}: `make wheel` builds one.")
    directory = Path(directory).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}
    environment.update(PATH=f"{directory}/bin:/usr/bin:/bin",
                       OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def run(*command):
        print("$", *command, flush=True)
        result = subprocess.run([str(word) for word in command], env=environment, cwd=directory)
        if result.returncode != 0:
            sys.exit(f"error: {command[0]} ended with {result.returncode}.")

    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "requirements/run.txt", "torch",
        "numpy", wheels[-1].resolve())
    run("horovodrun", "--check-build")
    run(python, "-m", "horovod_partial.check")
    run(python, "-m", "horovod_partial.check", "--policy", "first:1", "-np", "3")
    run("mpirun", "-np", "2", "--oversubscribe", "-x", "HOROVOD_CONTROLLER=mpi",
        "-x", "HOROVOD_CPU_OPERATIONS=mpi", python, "-m", "horovod_partial.check", "--here")
    print(f"wheel-check passed: {wheels[-1].name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
