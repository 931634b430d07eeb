"""Debian's Open MPI 4, unpacked for the tests: `openmpi4.py DIRECTORY`. Installs nothing.

The build uses Open MPI 5, whose library has the same binary interface (libmpi.so.40); the tests run
the same build with both. Where there is no apt, or no Open MPI 4 in its archive, says so and ends
well: the tests are skipped then.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What mpirun and libmpi need. Drivers of fast networks are left out: Open MPI does without.
PACKAGES = ["openmpi-bin", "openmpi-common", "libopenmpi3", "libhwloc15", "libpmix2", "libmunge2",
            "libevent-core-2.1-7", "libevent-pthreads-2.1-7"]


def run(*command, cwd=None):
    result = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {result.stdout.strip()}")


def download(packages, scratch):
    """Puts Debian packages into the folder `scratch`."""
    try:
        run("apt-get", "download", *packages, cwd=scratch)
    except OSError:
        # Images come without apt's lists: fetch them, but not into the system.
        lists = scratch / "lists"
        (lists / "partial").mkdir(parents=True)
        private = ("-o", f"Dir::State::Lists={lists}", "-o", "Dir::Cache::pkgcache=",
                   "-o", "Dir::Cache::srcpkgcache=")
        run("apt-get", *private, "update", cwd=scratch)
        run("apt-get", *private, "download", *packages, cwd=scratch)


def unpack(target, scratch):
    """Puts `bin/mpirun` and `usr` into `target`, through the folder `scratch` beside it."""
    download(PACKAGES, scratch)
    for package in scratch.glob("*.deb"):
        if package.name.startswith("openmpi-bin_") and "_4." not in package.name:
            raise OSError(f"apt has {package.name}, which is not Open MPI 4")
        run("dpkg", "-x", package, scratch / "root")
    (scratch / "root/bin").mkdir()
    (scratch / "root/bin/mpirun").symlink_to("../usr/bin/orterun")
    (scratch / "root").rename(target)


def provide(target, unpack, failure):
    """Makes the folder `target` by `unpack(target, scratch)`, or says what that means."""
    target = Path(target).resolve()
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    scratch.chmod(0o755)  # apt downloads as a user of its own
    try:
        unpack(target, scratch)
    except OSError as error:
        print(f"{failure}: {error}")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    provide(sys.argv[1], unpack, "Open MPI 4 is not tested")
