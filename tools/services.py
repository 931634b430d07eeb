"""An ssh server and SLURM of Debian's for the tests, unpacked: `services.py DIRECTORY`. Installs
nothing: the tests lay DIRECTORY/usr over /usr, in a mount namespace of their own.

Where there is no apt, or not these packages, says so and ends well: the tests are skipped then.
"""

import sys

from openmpi4 import download, provide, run

PACKAGES = ["openssh-server", "libwrap0",
            "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libmunge2",
            "libpmix2", "libpmix-dev", "libhwloc15", "libevent-core-2.1-7",
            "libevent-pthreads-2.1-7"]


def unpack(target, scratch):
    download(PACKAGES, scratch)
    for package in scratch.glob("*.deb"):
        run("dpkg", "-x", package, scratch / "root")
    # What Debian's alternatives would link.
    for program in scratch.glob("root/usr/*bin/*-wlm"):
        name = program.with_name(program.name.removesuffix("-wlm"))
        if not name.exists():
            name.symlink_to(program.name)
    (scratch / "root").rename(target)


if __name__ == "__main__":
    provide(sys.argv[1], unpack, "ssh and SLURM are not tested")
