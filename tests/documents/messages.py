"""The messages that our code can show a user, found in its sources: errors, warnings, and what is
said at the end of a training. What a message puts in (a name, a number) is `…`.

    python tests/documents/messages.py      lists them
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOLE = "…"
# Not for users: the simulation, and the core for Python, which only the tests and the report call.
_INTERNAL = ("csrc/sim", "csrc/python")
# Statements of C++ that make a message, and functions that put one together.
_CPP = re.compile(r"""
    \bthrow\s+std::(?:\w+)\(  |  \bLOG\((?:WARNING|ERROR)[^)]*\)(?=\s*<<)  |
    \bRefuse(?:Held|Listeners)?\(  |  \bFail\(  |  \bRemove\(  |  \.?\bmessage\s*=(?!=)  |
    \bRefusal\(  |  \*failure\s*=  |  \bwhy\s*=  |  \breturn\s+head\s*\+  |
    \breturn\s+(?="(?:Partial\ group|group)\ ')  |
    HorovodInternalError\(""", re.VERBOSE)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _tidy(text):
    text = re.sub(rf"{HOLE}[\s{HOLE}]*{HOLE}", HOLE, text)
    return re.sub(r"\s+", " ", text).strip()


def _says_something(text):
    return re.search(r"[A-Za-z]{2}", text.replace(HOLE, "")) is not None


# ----------------------------------------------------------------------------------- Python

def _text(node):
    """The text of an expression, or None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE
                       for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_text(node.left), _text(node.right)]
        if any(parts):
            return "".join(HOLE if part is None else part for part in parts)
    return None


def _named(call):
    function = call.func
    return (function.attr if isinstance(function, ast.Attribute)
            else getattr(function, "id", ""))


def _of_python(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from map(_text, node.exc.args[:1])
        elif isinstance(node, ast.Call):
            name = _named(node)
            to_stderr = any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr"
                            for k in node.keywords)
            note = ast.unparse(node.func).endswith("notes.append")
            if name in ("warn", "HorovodInternalError") or note or (name == "print" and to_stderr):
                yield from map(_text, node.args[:1])
            elif name in ("_say", "insert"):
                yield from map(_text, node.args[1:2])
        elif isinstance(node, ast.FunctionDef) and node.name in ("renew", "_renew", "_neither",
                                                                 "summary", "_salvage"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield _text(inner.value) if inner.value else None
                elif isinstance(inner, ast.ListComp):
                    yield _text(inner.elt)
                elif isinstance(inner, ast.Assign):
                    yield _text(inner.value)


# -------------------------------------------------------------------------------------- C++

def _statement(text, start):
    """From there to the end of the statement, outside of strings."""
    at = start
    while text[at] != ";":
        string = _STRING.match(text, at)
        at = string.end() if string else at + 1
    return text[start:at]


def _alternatives(expression):
    """What a conditional expression may give, and a conditional within one as a hole."""
    starts, pieces, at = [], [0], 0
    while at < len(expression):
        string = _STRING.match(expression, at)
        if string:
            at = string.end()
            continue
        character = expression[at]
        if character == "(":
            starts.append(at)
        elif character == ")" and starts:
            start = starts.pop()
            if "?" in _STRING.sub("", expression[start:at]):
                return _alternatives(expression[:start] + " x " + expression[at + 1:])
        elif not starts and (character == "?" or character == ":" and expression[at + 1] != ":"
                             and expression[at - 1] != ":"):
            pieces.append(at + 1)
        at += 1
    ends = [piece - 1 for piece in pieces[1:]] + [len(expression)]
    texts = [expression[start:end] for start, end in zip(pieces, ends)]
    return texts[1:] or texts


def _joined(expression):
    """The strings of an expression, with a hole for what it puts between them."""
    parts, at = [], 0
    for string in _STRING.finditer(expression):
        if re.search(r"\w", expression[at:string.start()]):
            parts.append(HOLE)
        parts.append(string[1].encode().decode("unicode_escape"))
        at = string.end()
    if re.search(r"\w", re.split(r",\s|\)\)", expression[at:])[0]):
        parts.append(HOLE)
    return "".join(parts)


def _of_cpp(text):
    text = re.sub(r"(?m)^\s*//.*$", "", text)
    for begin in _CPP.finditer(text):
        statement = _statement(text, begin.end())
        if re.match(r"Fail|Ref|Remove", begin[0]):
            # The message is one argument among others.
            first = _STRING.search(statement)
            statement = statement[first.start():] if first else ""
        elif "system_error" in begin[0]:
            statement = statement.rpartition(",")[2] + '": " reason'
        statement = statement.replace("std::string(", "(")
        yield from map(_joined, _alternatives(statement))


# ------------------------------------------------------------------------------------- all

def sources():
    """(where, the text, whether it is Python) of our files, and of what patches add."""
    for path in sorted((ROOT / "horovod_partial").rglob("*")):
        where = str(path.relative_to(ROOT))
        if path.suffix in (".py", ".cc", ".h") and not any(part in where for part in _INTERNAL):
            yield where, path.read_text(), path.suffix == ".py"
    for path in sorted((ROOT / "patches").rglob("*.patch")):
        added = "\n".join(line[1:] if line[:1] == "+" and line[:3] != "+++" else ";"
                          for line in path.read_text().splitlines())
        yield str(path.relative_to(ROOT)), added + ";", False


def messages():
    """A dict: each message, and the files that it comes from."""
    found = {}
    for where, text, python in sources():
        for message in _of_python(ast.parse(text)) if python else _of_cpp(text):
            message = _tidy(message or "")
            if _says_something(message):
                found.setdefault(message, set()).add(where)
    return found


if __name__ == "__main__":
    for message, files in messages().items():
        print(f"{', '.join(sorted(files))}\n    {message}")
