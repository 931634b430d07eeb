"""The code in the documents runs, and says what the code does."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

import documents
from common import ROOT

SCRIPT = ROOT / "tests/documents/run_snippets.py"


def after(diff):
    """What a diff leaves."""
    return "".join(line[1:] + "\n" for line in diff.splitlines()
                   if line[:1] in ("+", " ") or not line)


def before(diff):
    return "".join(line[1:] + "\n" for line in diff.splitlines()
                   if line[:1] in ("-", " ") or not line)


SNIPPETS = [*documents.snippets("python"),
            *[s._replace(code=after(s.code)) for s in documents.snippets("diff")]]
WHOLE = [s for s in SNIPPETS if s.code.startswith("# train.py")]  # see test_user_path.py


def of(framework):
    return [s for s in SNIPPETS if s not in WHOLE
            and (framework == "keras") == ("keras" in s.code or "tf." in s.code)]


NAMED = sorted({(documents._name(path), name) for path in documents.DOCUMENTS
                for name in re.findall(r"\bhvd\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)",
                                       path.read_text())})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(framework) is the finished process that has run its snippets."""
    done = {}

    def run(framework):
        if framework not in done:
            done[framework] = subprocess.run(
                [sys.executable, str(SCRIPT), framework],
                input=json.dumps([[s.id, s.code] for s in of(framework)]), capture_output=True,
                text=True, timeout=120, cwd=tmp_path_factory.mktemp(framework),
                env={**os.environ, "NAMES": " ".join({name for _, name in NAMED})})
        return done[framework]

    return run


def said(result, what):
    return re.findall(rf"(?m)^{what} (.*)$", result.stdout)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_snippets_run(run, framework):
    result = run(framework)
    assert len(of(framework)) > 2
    assert said(result, "ran") == [s.id for s in of(framework)] and result.returncode == 0, (
        result.stderr[-4000:])


def test_every_name_exists(run):
    """hvd.X in any document is in the module for PyTorch, TensorFlow or Keras."""
    known = {*said(run("torch"), "has"), *said(run("keras"), "has")}
    assert not [(document, name) for document, name in NAMED if name not in known]


def test_every_other_snippet_is_a_script():
    assert len(WHOLE) == 1


@pytest.mark.parametrize("snippet", documents.snippets("diff"), ids=lambda s: s.id)
def test_diffs_begin_with_horovods_code(snippet):
    """What the minus lines take away is an import of Horovod's, and the rest compiles."""
    old = before(snippet.code)
    compile(old, snippet.id, "exec")
    assert re.search(r"(?m)^import horovod\.(torch|tensorflow\.keras) as hvd$", old)


@pytest.mark.parametrize("snippet", documents.snippets("yaml"), ids=lambda s: s.id)
def test_configuration_files(snippet):
    import argparse

    from horovod_partial import launch

    section = yaml.safe_load(snippet.code)["partial"]
    args = argparse.Namespace()
    launch.set_args_from_config(args, section, {})
    assert args.partial == section["policy"]


def keys(page):
    """What the first columns of a page's tables name."""
    return set(re.findall(r"`(\w+)`", " ".join(
        line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))))


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_every_statistic_is_described(run, framework):
    page = (ROOT / "docs/api/statistics.md").read_text()
    assert keys(page) == set(said(run(framework), "stats")[0].split())


def test_every_environment_variable_is_described():
    used = set()
    for path in (ROOT / "horovod_partial").rglob("*"):
        if path.suffix in (".py", ".cc"):
            used |= set(re.findall(r'"(HOROVOD_(?:PARTIAL_)?[A-Z_]+)"', path.read_text()))
    page = (ROOT / "docs/api/settings.md").read_text()
    from horovod_partial import launch

    described = set(re.findall(r"HOROVOD_[A-Z_]+", page)) | {row[2] for row in launch._ARGUMENTS}
    assert used <= described, used - described
