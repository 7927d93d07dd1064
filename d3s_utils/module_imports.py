"""Which modules of this package a piece of source needs, read from its text without running it."""

import ast
import json
from pathlib import Path

PACKAGE = Path(__file__).parent


def imported_modules(source: str) -> set[str]:
    """Return the names of the modules of this package that `source` imports itself.

    Args:
        source: Python code; lines of IPython magic are passed over.

    Raises:
        SyntaxError: If it is no Python.
    """
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    names = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == PACKAGE.name and len(part) > 1 and part[1] in modules}


def needed_modules(source: str) -> set[str]:
    """Return the names of the modules that `source` needs, directly or through another module."""
    found, waiting = set(), imported_modules(source)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= imported_modules((PACKAGE / f"{name}.py").read_text(encoding="utf-8")) - found
    return found


def notebook_cells(notebook: Path) -> list[tuple[str, str]]:
    """Return the kind (code, markdown, raw) and the text of each cell of a notebook file.

    Raises:
        ValueError: If the file is no notebook.
    """
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"notebook must be a Jupyter notebook of format 4, got {notebook}: {error!r}") from None
