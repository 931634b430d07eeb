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


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_snippets_run(framework, tmp_path):
    snippets = of(framework)
    assert len(snippets) > 2
    result = subprocess.run(
        [sys.executable, str(SCRIPT), framework], input=json.dumps([[s.id, s.code]
                                                                   for s in snippets]),
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/documents")})
    ran = re.findall(r"(?m)^ran (.*)$", result.stdout)
    assert ran == [s.id for s in snippets] and result.returncode == 0, result.stderr[-4000:]


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


NAMED = sorted({(documents._name(path), name) for path in documents.DOCUMENTS
                for name in re.findall(r"\bhvd\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)",
                                       path.read_text())})


def test_every_name_exists():
    """hvd.X in any document is in the module for PyTorch, TensorFlow or Keras."""
    import horovod_partial.tensorflow
    import horovod_partial.tensorflow.keras
    import horovod_partial.torch

    def has(module, name):
        for part in name.split("."):
            module = getattr(module, part, None)
        return module is not None

    modules = [horovod_partial.torch, horovod_partial.tensorflow, horovod_partial.tensorflow.keras]
    missing = [(document, name) for document, name in NAMED
               if not any(has(module, name) for module in modules)]
    assert not missing


def keys(page):
    """What the first columns of a page's tables name."""
    return set(re.findall(r"`(\w+)`", " ".join(
        line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))))


def test_every_statistic_is_described():
    """As many keys as stats() has. (What they mean: docs/api/statistics.md.)"""
    code = ("import torch, json, horovod_partial.torch as hvd; hvd.init();"
            "m = torch.nn.Linear(1, 1);"
            "o = hvd.DistributedOptimizer(torch.optim.SGD(m.parameters(), lr=1.0));"
            "m(torch.ones(1, 1)).sum().backward(); o.step(); print(json.dumps(list(o.stats())))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert keys((ROOT / "docs/api/statistics.md").read_text()) == set(
        json.loads(result.stdout.splitlines()[-1]))


def test_every_environment_variable_is_described():
    used = set()
    for path in (ROOT / "horovod_partial").rglob("*"):
        if path.suffix in (".py", ".cc"):
            used |= set(re.findall(r'"(HOROVOD_(?:PARTIAL_)?[A-Z_]+)"', path.read_text()))
    page = (ROOT / "docs/api/settings.md").read_text()
    from horovod_partial import launch

    described = set(re.findall(r"HOROVOD_[A-Z_]+", page)) | {row[2] for row in launch._ARGUMENTS}
    assert used <= described, used - described
