"""The pages are built, and links lead somewhere. Links to other sites are checked for their form
only: tests need no internet."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import documents
from common import ROOT
from documents import DOCUMENTS
from horovod_partial import launch


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What `make docs` runs."""
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines()
                  if "sphinx-build" in line)
    options = re.search(r"sphinx-build (.*) docs build/docs", recipe)[1].split()
    output = tmp_path_factory.mktemp("docs")
    result = subprocess.run(
        [str(Path(sys.executable).with_name("sphinx-build")), *options, "--doctree-dir",
         str(output / "doctrees"), "docs", str(output / "html")], cwd=ROOT, capture_output=True, text=True, timeout=400)
    return result, output / "html"


def test_the_pages_are_built_without_a_warning(built):
    result, html = built
    assert "--fail-on-warning" in result.args
    assert result.returncode == 0, result.stdout + result.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        assert (html / page.relative_to(ROOT / "docs")).with_suffix(".html").exists()


def test_pictures_and_tables_are_on_the_pages(built):
    _, html = built
    for name in ("round", "policies", "catch-up", "layers"):
        assert (html / f"_images/{name}.svg").stat().st_size > 5_000
    patches = (html / "patches.html").read_text()
    for name in (ROOT / "patches/series").read_text().splitlines()[1:]:
        assert f">{name.split('/')[1].removesuffix('.patch')}<" in patches


def test_the_table_of_settings_is_the_launchers():
    """The page shows it without a build, too."""
    rows = []
    for key, name, variable, metavar, text in launch._ARGUMENTS:
        cells = [f"`--{name.replace('_', '-')} {metavar}`", f"`{key}`", f"`{variable}`",
                 text.replace(", see above", "")]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    assert "\n".join(rows) in (ROOT / "docs/api/settings.md").read_text()


@pytest.mark.parametrize("page, words", [
    ("torch", ["optimizer.flush", "optimizer.register_before_round", "staleness_bound",
               "partial_allreduce_async", "PartialSummary", "First"]),
    ("tensorflow", ["DistributedGradientTape", "flush_gradients", "StackedRounds"]),
    ("keras", ["StopAtRound", "FlushCallback", "RoundSchedule", "load_model"])])
def test_the_reference_comes_from_docstrings(built, page, words):
    text = re.sub(r"<[^>]*>", "", (built[1] / f"api/{page}.html").read_text())
    assert all(word in text for word in words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=documents._name)
def test_links_lead_somewhere(document):
    """Without a build, as in the repository."""
    for link in documents.links(document):
        if "://" in link:
            address = urlsplit(link)
            assert address.scheme == "https" and "." in address.netloc, link
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in documents.anchors(target), link


def test_files_that_are_named_exist():
    """Paths in sentences of CONTRIBUTING and docs/protocol.md."""
    for name in ("CONTRIBUTING.md", "docs/protocol.md"):
        text = documents.prose(ROOT / name)
        for path in re.findall(r"`((?:horovod_partial|tests|tools|patches|docs)/[\w./*-]+)`", text):
            assert list(ROOT.glob(path)) or list(ROOT.glob(path + "*")), f"{name}: {path}"
