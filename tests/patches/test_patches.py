"""The patches over the pristine source, and what a build says when something is amiss."""

import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from common import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import host  # noqa: E402
import patches  # noqa: E402

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of patches/ to damage."""
    target = tmp_path / "patches"
    shutil.copytree(ROOT / "patches", target)
    monkeypatch.setattr(host, "PATCHES", target)
    return target


def test_the_series_applies_has_headers_and_no_orphan():
    assert patches.problems() == []


def test_an_orphan_is_found(copy):
    (copy / "partial/extra.patch").write_text("Description: x\n---\n")
    assert patches.problems() == ["patches/partial/extra.patch is not in patches/series."]


def test_a_missing_patch_is_found(copy):
    (copy / "partial/build.patch").unlink()
    assert any("there is no such file" in problem for problem in patches.problems())


def test_a_missing_header_is_found(copy):
    path = copy / "partial/build.patch"
    path.write_text(path.read_text().replace("Description: ", "About: "))
    assert patches.problems() == [
        "patches/partial/build.patch has no Description in its header (DEP-3)."]


@pytest.mark.parametrize("old, new", [
    (" # Default Macro", " # Default macro"),  # the context differs: fuzz would take it
    ("@@ -72,6 +72,12 @@", "@@ -70,6 +70,12 @@"),  # a few lines off
])
def test_a_patch_that_does_not_fit_exactly_is_refused(copy, old, new):
    path = copy / "partial/build.patch"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    problem, = patches.problems()
    assert problem.startswith("patches/partial/build.patch does not apply to Horovod 0.28.1")


def test_the_order_of_the_series_matters(copy):
    names = host.series()
    (copy / "series").write_text("\n".join(reversed(names)) + "\n")
    assert any("does not apply" in problem for problem in patches.problems())


def test_tree_and_refresh_give_the_same_patches(tmp_path, copy):
    patches.make_tree(tmp_path / "tree")
    before = {name: (copy / name).read_text() for name in host.series()}
    patches.refresh(tmp_path / "tree")
    assert {name: (copy / name).read_text() for name in host.series()} == before


def test_a_second_preparation_touches_only_what_changed(tmp_path, copy):
    shutil.copy(host.archive(ROOT / "build"), tmp_path / host.ARCHIVE)
    tree = host.prepare(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}
    path = copy / "partial/version.patch"
    path.write_text(path.read_text().replace("+# With the", "+# Having the"))
    host.prepare(tmp_path)
    changed = [str(p.relative_to(tree)) for p, when in files.items()
               if p.stat().st_mtime_ns != when]
    assert changed == ["horovod/__init__.py"]


def test_debians_python_unpacks_too(tmp_path, monkeypatch):
    """3.11.2 has no filters for archives."""
    extract = tarfile.TarFile.extractall
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: extract(self, path))
    monkeypatch.delattr(tarfile, "data_filter")
    host.unpack(host.archive(ROOT / "build"), tmp_path / "source")
    assert (tmp_path / "source/setup.py").is_file()


def build(tmp_path, **env):
    """`setup.py build_ext` of a copy of the project; returns the process."""
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(
        ".git", ".venv", "build", "results", "*.egg-info", "__pycache__"))
    environment = {**os.environ, "HOROVOD_SDIST": str(host.archive(ROOT / "build")), **env}
    return subprocess.run([sys.executable, "setup.py", "build_ext"], cwd=project,
                          env=environment, capture_output=True, text=True)


def error_of(process):
    assert process.returncode != 0
    assert "Traceback" not in process.stderr
    return process.stderr.strip().splitlines()[-1]


def test_a_wrong_archive_stops_the_build(tmp_path):
    wrong = tmp_path / "horovod-0.28.1.tar.gz"
    wrong.write_bytes(b"not the archive")
    assert "is not the pristine horovod-0.28.1.tar.gz: its sha256 is" in error_of(
        build(tmp_path, HOROVOD_SDIST=str(wrong)))


def test_an_archive_that_is_not_there_stops_the_build(tmp_path):
    assert error_of(build(tmp_path, HOROVOD_SDIST="/no/such/file")) == (
        "error: HOROVOD_SDIST=/no/such/file is not a file.")


def test_a_missing_framework_stops_the_build(tmp_path):
    assert "neither torch nor tensorflow" in error_of(
        build(tmp_path, HOROVOD_WITHOUT_PYTORCH="1", HOROVOD_WITHOUT_TENSORFLOW="1"))


def test_a_missing_compiler_stops_the_build(tmp_path):
    assert "there is no C++ compiler: no-such-compiler" in error_of(
        build(tmp_path, CXX="no-such-compiler"))
