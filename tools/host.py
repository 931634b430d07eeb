"""The host: Horovod's pristine source archive, and the tree that patches/series makes of it.

Used by setup.py and by tools/patches.py.
"""

import filecmp
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.28.1"
ARCHIVE = f"horovod-{VERSION}.tar.gz"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "patches"


class HostError(Exception):
    """A build that cannot go on; the message is one sentence for the user."""


def series():
    """The patches in order, as paths relative to ``patches/``."""
    lines = (PATCHES / "series").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def archive(cache):
    """The path of the checked archive: ``HOROVOD_SDIST``, or downloaded by pip into ``cache``."""
    given = os.environ.get("HOROVOD_SDIST")
    path = Path(given) if given else Path(cache) / ARCHIVE
    if given and not path.is_file():
        raise HostError(f"HOROVOD_SDIST={given} is not a file.")
    if not path.is_file():
        _download(Path(cache))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise HostError(f"{path} is not the pristine {ARCHIVE}: its sha256 is {found}, "
                        f"but {SHA256} is pinned in tools/host.py.")
    return path


def _download(cache):
    cache.mkdir(parents=True, exist_ok=True)
    # Without isolation: pip reads the archive's metadata with the setuptools that is here.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--no-binary", ":all:", "--no-build-isolation", "--dest", str(cache),
               f"horovod=={VERSION}"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0 or not (cache / ARCHIVE).is_file():
        print(result.stdout, file=sys.stderr)
        raise HostError(f"pip could not download {ARCHIVE} from the package index (its output is "
                        "above); set HOROVOD_SDIST to a copy of it to build without a download.")


def unpack(archive_path, target):
    """Unpacks the archive so that ``target`` is its top folder."""
    target = Path(target)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with tarfile.open(archive_path) as tar:
            # As an attribute: Debian 12's Python, 3.11.2, knows no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)
        shutil.move(Path(scratch) / f"horovod-{VERSION}", target)


def apply(name, tree):
    """Applies one patch of the series: every line has to stand where the patch says."""
    try:
        import patch_ng
    except ImportError:
        raise HostError("patch_ng is missing: `pip install -r requirements/build.txt` brings what "
                        "a build without isolation needs.") from None

    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    patch_ng.logger.addHandler(handler)
    patch_ng.logger.propagate = False
    try:
        patches = patch_ng.fromfile(str(PATCHES / name))
        applied = patches and patches.apply(strip=1, root=str(tree), fuzz=False)
    finally:
        patch_ng.logger.removeHandler(handler)
    stale = [message for message in messages if "already patched" in message]
    if not applied or stale:
        reason = next((m for m in messages if "error" in m or "match" in m or "different" in m),
                      "it cannot be read")
        raise HostError(f"patches/{name} does not apply to Horovod {VERSION}: {reason}.")


def prepare(build):
    """Brings ``build/host`` up to date with the archive and the patches, and returns its path.

    Only files whose content changes are touched, so that a second build compiles only what
    depends on them.
    """
    build = Path(build)
    tree = build / "host"
    stamp = build / "host.stamp"
    wanted = _fingerprint()
    if tree.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
        return tree
    build.mkdir(parents=True, exist_ok=True)
    source = archive(build)
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        fresh = Path(scratch) / "host"
        unpack(source, fresh)
        for name in series():
            apply(name, fresh)
        _synchronise(fresh, tree)
    stamp.write_text(wanted)
    return tree


def _fingerprint():
    digest = hashlib.sha256(SHA256.encode())
    for name in series():
        digest.update(name.encode())
        digest.update((PATCHES / name).read_bytes())
    return digest.hexdigest()


def _synchronise(fresh, tree):
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in wanted:
        target = tree / name
        if not target.is_file() or not filecmp.cmp(fresh / name, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Copied as new: the archive's times are older than what has been compiled.
            shutil.copyfile(fresh / name, target)
    for path in list(tree.rglob("*")):
        name = path.relative_to(tree)
        # Horovod's CMake files leave a second copy of gloo there.
        if path.is_file() and name not in wanted and "compatible17_gloo" not in name.parts:
            path.unlink()
