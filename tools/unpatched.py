"""Builds Horovod as it is, for comparisons: `unpatched.py DIRECTORY`.

The pristine archive, with nothing but what it needs to compile on the PyTorch that is here
(patches/compat/cxx20.patch), for PyTorch only. It is installed into DIRECTORY/site: with that in
PYTHONPATH, `import horovod` and `horovodrun` are it. Does nothing where it is there already.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import host

PATCHES = ["compat/cxx20.patch"]


def unpack(source):
    shutil.rmtree(source, ignore_errors=True)
    source.parent.mkdir(parents=True, exist_ok=True)
    host.unpack(host.archive(host.ROOT / "build"), source)
    for name in PATCHES:
        host.apply(name, source)


def build(directory):
    site = directory / "site"
    if site.exists():
        return
    source = directory / "source"
    unpack(source)
    # Installed beside first: an interrupted build must not look like a finished one.
    fresh = directory / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"],
        "HOROVOD_WITH_PYTORCH": "1", "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1", "HOROVOD_WITH_GLOO": "1",
        # gloo asks for a CMake that CMake 4 does not imitate without a word.
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--quiet",
         "--target", str(fresh), str(source)], env=environment)
    if result.returncode != 0:
        raise host.HostError("the unpatched Horovod does not build: the output above says why.")
    fresh.rename(site)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 0 if "--help" in sys.argv else 2
    try:
        build(Path(sys.argv[1]).resolve())
    except host.HostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
