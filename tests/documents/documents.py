"""README, CONTRIBUTING, examples/README and docs/ as the tests read them: their commands, code and links."""

import re
from typing import NamedTuple

from common import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md",
             *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "console", "shell")
_FENCE = re.compile(r"(?ms)^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```$")
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_PROGRAMS = r"(?:HOROVOD_\w+=\S+ )*(?:horovodrun|mpirun|make|python|pip|git|cd|source)\b"


class Snippet(NamedTuple):
    document: str
    line: int
    code: str

    @property
    def id(self):
        return f"{self.document}:{self.line}"


def _name(path):
    return str(path.relative_to(ROOT))


def fences(path):
    """(language, line, text) of each fenced block."""
    text = path.read_text()
    return [(m[1], text[:m.start()].count("\n") + 1, m[2]) for m in _FENCE.finditer(text)]


def prose(path):
    """The text without fenced blocks, line for line."""
    return _FENCE.sub(lambda m: "\n" * m[0].count("\n"), path.read_text())


def _clean(line):
    return " ".join(re.sub(r"\s+#\s.*$", "", line).split())


def commands(path):
    """The commands of a document, as a reader would type them: in indented or fenced blocks."""
    found, before, inside = [], "", False
    for line in prose(path).replace("\\\n", " ").splitlines():
        inside = line.startswith("    ") and (inside or not before.strip())
        if inside:
            found.append(_clean(line))
        before = line
    for language, _, text in fences(path):
        if language in SHELL:
            found += [_clean(line) for line in text.replace("\\\n", " ").splitlines()]
    return [command for command in found if command and not command.startswith("...")]


def inline_commands(path):
    """Commands within sentences that have arguments."""
    found = [" ".join(text.split()) for text in _INLINE.findall(prose(path))]
    return [text for text in found if re.match(_PROGRAMS + r" \S", text)]


def snippets(language):
    return [Snippet(_name(path), line, text) for path in DOCUMENTS
            for kind, line, text in fences(path) if kind == language]


def links(path):
    """Targets of links and images."""
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))


def anchors(path):
    """Anchors of headings, as GitHub and MyST make them."""
    found = set()
    for heading in re.findall(r"(?m)^#{1,4} (.*)$", prose(path)):
        text = re.sub(r"[`*]", "", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found
