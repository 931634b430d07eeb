"""The source archive: a build from it has all that a build from the repository has."""

import subprocess
import sys
import tarfile

from common import ROOT


def test_the_source_archive_is_complete(tmp_path):
    subprocess.run([sys.executable, "-c",
                    f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    archive, = tmp_path.glob("horovod-0.28.1+partial.*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = [path.relative_to(ROOT) for folder in ("patches", "horovod_partial", "requirements")
              for path in (ROOT / folder).rglob("*")
              if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"]
    wanted += ["setup.py", "pyproject.toml", "LICENSE", "NOTICE", "README.md", "tools/host.py"]
    assert {str(name) for name in wanted} <= names
    # Horovod's own files are not ours to ship: the build fetches and patches them.
    assert not [name for name in names if name.startswith(("build/", "horovod/"))]
