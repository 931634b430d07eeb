"""An ssh server and SLURM of Debian's for the tests, unpacked: `services.py DIRECTORY`. Installs
nothing: the tests lay DIRECTORY/usr over /usr, in a mount namespace of their own.

Where there is no apt, or not these packages, says so and ends well: the tests are skipped then.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from openmpi4 import download, run

PACKAGES = ["openssh-server", "libwrap0",
            "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libmunge2",
            "libpmix2", "libpmix-dev", "libhwloc15", "libevent-core-2.1-7",
            "libevent-pthreads-2.1-7"]


def main(target):
    target = Path(target).resolve()
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    scratch.chmod(0o755)  # apt downloads as a user of its own
    try:
        download(PACKAGES, scratch)
        for package in scratch.glob("*.deb"):
            run("dpkg", "-x", package, scratch / "root")
        # What alternatives would link.
        for program in scratch.glob("root/usr/*bin/*-wlm"):
            name = program.with_name(program.name.removesuffix("-wlm"))
            if not name.exists():
                name.symlink_to(program.name)
        (scratch / "root").rename(target)
    except OSError as error:
        print(f"ssh and SLURM are not tested: {error}")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
