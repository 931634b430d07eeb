"""What the pages have from the sources: pictures, the table of patches, and the methods of objects
that functions return."""

import contextlib
import gzip
import inspect
import io
import re
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx.util.parsing import nested_parse_to_nodes

import pictures

ROOT = Path(__file__).resolve().parent.parent.parent
_log = logging.getLogger(__name__)


class _Generated(SphinxDirective):
    """A directive that stands for lines of reStructuredText."""

    def run(self):
        lines = StringList(list(self.lines()), source=f"<{self.name}>")
        return nested_parse_to_nodes(self.state, lines)


def table(head, rows, widths):
    """Lines of a list-table; cells are reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        for at, cell in enumerate(row):
            lines.append(("   * - " if at == 0 else "     - ") + (cell or "\\ "))
    return [*lines, ""]


def description(patch):
    """The summary of a patch's header, what the rest of it says, and the files it changes."""
    header, _, diff = patch.partition("---\n")
    field = re.search(r"(?ms)^Description: (.*?)(?=^\w[\w-]*:)", header)[1]
    first, _, rest = field.partition("\n")
    files = sorted(set(re.findall(r"(?m)^\+\+\+ b/(\S+)", diff)))
    return first.strip(), " ".join(rest.split()), files


class PatchTable(_Generated):
    """``patch-table:: compat``: the patches of that folder, in the order of the series."""

    required_arguments = 1

    def lines(self):
        patches = ROOT / "patches"
        self.env.note_dependency(str(patches / "series"))
        rows = []
        for name in (patches / "series").read_text().splitlines():
            if not name.startswith(self.arguments[0] + "/"):
                continue
            self.env.note_dependency(str(patches / name))
            first, rest, files = description((patches / name).read_text())
            rows.append([f"``{Path(name).stem}``", f"**{_escaped(first)}** {_escaped(rest)}",
                         " ".join(f"``{file.removeprefix('horovod/')}``" for file in files)])
        return table(["patch", "what and why", "changes in ``horovod/``"], rows, "18 52 30")


class Methods(_Generated):
    """``methods:: optimizer horovod_partial.module.Class``, with names as content: the methods
    and properties of what a function returns, shown as the user has it."""

    required_arguments = 2
    has_content = True

    def lines(self):
        shown, path = self.arguments
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        lines = []
        for member in " ".join(self.content).split():
            if not hasattr(cls, member):
                _log.warning("%s has no %s", path, member, location=self.get_location())
                continue
            attribute = inspect.getattr_static(cls, member)
            if isinstance(attribute, property):
                kind, signature, attribute = "attribute", "", attribute.fget
            else:
                function = inspect.unwrap(attribute)
                signature = str(inspect.signature(function))
                signature = re.sub(r"^\(self(, )?", "(", signature)
                kind = "method"
            doc = inspect.cleandoc(attribute.__doc__ or "")
            if not doc:
                _log.warning("%s.%s has no docstring", path, member,
                             location=self.get_location())
            lines += [f".. py:{kind}:: {shown}.{member}{signature}", "   :no-index:", ""]
            lines += ["   " + line for line in
                      str(GoogleDocstring(doc, self.config, what="method")).splitlines()]
            lines.append("")
        return lines


def _escaped(text):
    """Plain text for reStructuredText, with the code in it as code."""
    text = re.sub(r"([*`|\\])", r"\\\1", text)
    text = re.sub(r"(?<![\w`])((?:HOROVOD_\w+|[\w.]+\(\)|hvd\.\w+)(?:=\S*\w)?)", r"``\1``", text)
    return text


def _resolve(app, env, node, contnode):
    """``hvd.name`` in a docstring is the name in the module of the page, else in any of ours."""
    target = node.get("reftarget", "")
    if not target.startswith("hvd."):
        return None
    name = target.removeprefix("hvd.")
    here = node.get("py:module")
    domain = env.domains["py"]
    for module in filter(None, [here, "horovod_partial.torch", "horovod_partial.tensorflow",
                                "horovod_partial.tensorflow.keras"]):
        found = domain.objects.get(f"{module}.{name}")
        if found:
            return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id,
                                nodes.literal("", f"hvd.{name}()"))
    return None


def _draw_report(directory):
    """The figures of a report of a recorded training, for the page about reports."""
    records = import_module("horovod_partial.records")
    report = import_module("horovod_partial.report")
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        timeline = Path(scratch) / "timeline.json"
        timeline.write_bytes(gzip.decompress((ROOT / "tests/data/timeline.json.gz").read_bytes()))
        partial = records.read([timeline])[1:]
        report.write(partial, Path(scratch))
        for kind in ("participation", "policies"):
            figure, = Path(scratch).glob(f"*-{kind}.png")
            shutil.copy(figure, directory / f"report-{kind}.png")


def _draw(app):
    directory = Path(app.srcdir) / "images"
    pictures.draw(directory)
    _draw_report(directory)


def _without_what_is_not_there(app, docname, source):
    """The list of pages names benchmarks.md, which `make bench-docs` makes."""
    if docname == "index" and not (Path(app.srcdir) / "benchmarks.md").exists():
        source[0] = source[0].replace("\nbenchmarks\n", "\n")


def setup(app):
    app.add_directive("patch-table", PatchTable)
    app.add_directive("methods", Methods)
    app.connect("source-read", _without_what_is_not_there)
    app.connect("missing-reference", _resolve)
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True}
