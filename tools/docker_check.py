"""Builds the CPU image without a Docker engine, and runs it: `docker_check.py DIRECTORY`.

debootstrap makes the base, a Debian 12 of the current packages, which takes the name of the base
image in docker/cpu.Dockerfile. buildah then carries out the Dockerfile's steps on it, in chroot
isolation. In the image, as its user: the health check as the image states it, and what
docker/compose.yaml does, ranks behind two ssh servers, both on this machine.

Not covered: the base image itself (debootstrap's is its like, with current packages), Docker's own
builder, networks between containers, docker/gpu.Dockerfile. Needs root, and
`apt-get install buildah debootstrap`; downloads about 1 GB and compiles Horovod, 15 minutes on 2
cores. What it makes stays in DIRECTORY, about 6 GB; a second run builds what has changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker/cpu.Dockerfile"
MIRROR = "http://deb.debian.org/debian"
IMAGE = "localhost/horovod-partial:cpu"


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], text=True, **options)
    if result.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {result.returncode}.")
    return result.stdout


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, directory):
        self._options = ["--root", directory / "storage", "--runroot", directory / "run"]

    def __call__(self, verb, *arguments):
        run("buildah", *self._options, verb, *arguments)

    def read(self, verb, *arguments):
        return run("buildah", *self._options, verb, *arguments, stdout=subprocess.PIPE).strip()


def make_base(buildah, directory, name):
    """A Debian 12 of debootstrap's by this name, unless there is one."""
    tags = [f"localhost/{name}", f"docker.io/library/{name}"]
    if tags[0] in buildah.read("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        return
    tree = directory / "debian"
    shutil.rmtree(tree, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "bookworm", tree, MIRROR)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    container = buildah.read("from", "scratch")
    buildah("add", "--quiet", container, tree, "/")
    buildah("config", "--cmd", "bash", container)
    buildah("commit", "--quiet", "--rm", container, tags[0])
    buildah("tag", tags[0], tags[1])
    shutil.rmtree(tree)


def build(buildah, directory):
    options = ["--isolation", "chroot", "--format", "docker", "--layers", "--pull-never",
               "--file", DOCKERFILE, "--tag", IMAGE]
    # How pip reaches its index is this machine's affair, and no part of the image.
    links, certificates = os.environ.get("PIP_FIND_LINKS", ""), os.environ.get("PIP_CERT")
    if links and Path(links).is_dir():
        options += ["--volume", f"{links}:/wheels:ro", "--build-arg", "TORCH_LINKS=/wheels"]
    if certificates:
        pip = directory / "pip"
        pip.mkdir(exist_ok=True)
        shutil.copy(certificates, pip / "certificates.pem")
        (pip / "pip.conf").write_text("[global]\ncert = /etc/xdg/pip/certificates.pem\n")
        options += ["--volume", f"{pip}:/etc/xdg/pip:ro"]
    buildah("build", *options, ROOT)


def check(buildah):
    """Runs the image; ends the program if something is wrong with it."""
    config = json.loads(buildah.read("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    kind, *health = config["Healthcheck"]["Test"]
    if kind != "CMD":
        sys.exit(f"error: the image's health check is {config['Healthcheck']['Test']}.")
    container = buildah.read("from", "--pull-never", IMAGE)
    try:
        def inside(*command):
            print("$", *command, flush=True)
            started = time.monotonic()
            buildah("run", "--isolation", "chroot", container, "--", *command)
            print(f"  {time.monotonic() - started:.0f} s", flush=True)

        inside("sh", "-euc", 'test "$(id -u)" != 0; touch ~/writable')
        inside(*health)
        inside("python", "-m", "horovod_partial.check", "--policy", "first:1", "-np", "3")
        inside("sh", "-euc", SSH)
        root = Path(buildah.read("mount", container))
        size = run("du", "-sxm", root, stdout=subprocess.PIPE).split()[0]
        print(f"The image holds {size} MB.")
        buildah("umount", container)
    finally:
        buildah("rm", container)


# As in docker/compose.yaml, but all on this machine: 127.0.0.2 and 127.0.0.3 are the two workers.
SSH = """
mkdir ~/keys
ssh-keygen -q -t ed25519 -N '' -f ~/keys/id_ed25519
start-worker ~/keys 2222 2> ~/worker.log &
trap 'kill $!' EXIT
until grep -q 'Server listening' ~/worker.log; do kill -0 $!; done
horovodrun --gloo --partial first:2 -np 4 -H localhost:2,127.0.0.2:2 --ssh-port 2222 \
  --ssh-identity-file ~/keys/id_ed25519 --network-interfaces lo \
  python -m horovod_partial.check --here
"""


def main(directory):
    if os.geteuid() != 0:
        sys.exit("error: this needs root: it makes root file systems and enters them.")
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    if missing:
        sys.exit(f"error: `apt-get install {' '.join(missing)}` brings what is missing.")
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(directory)
    base = re.search(r"^ARG BASE=(\S+)", DOCKERFILE.read_text(), re.MULTILINE).group(1)
    make_base(buildah, directory, base)
    build(buildah, directory)
    check(buildah)
    print("docker-check passed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
