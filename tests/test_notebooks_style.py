"""What every notebook keeps to: STYLE's rules that a machine can hold, and parameters that are the settings."""

import ast
import json
import re
import statistics

import pytest

from d3s_utils.module_imports import needed_modules, notebook_cells
from d3s_utils.settings import NOTEBOOK_SETTINGS, find_root

NOTEBOOKS = sorted((find_root() / "notebooks").glob("*.ipynb"))
RUN_ITSELF = {"profile": "mini", "output_dir": "outputs", "seed": 0}

pytestmark = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook):
    return [text for kind, text in notebook_cells(notebook) if kind == "code"]


def parameters_of(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "one cell is tagged `parameters`"
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(tagged[0]).body}


def test_is_committed_without_outputs(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_parameters_are_the_settings_of_the_notebook(notebook):
    parameters = parameters_of(notebook)
    if notebook.stem not in NOTEBOOK_SETTINGS:
        pytest.skip("it is no part of the job and has parameters of its own")
    assert {name: parameters.get(name) for name in RUN_ITSELF} == RUN_ITSELF
    assert list(parameters)[3:] == list(NOTEBOOK_SETTINGS[notebook.stem]), "the same names in the same order"
    assert all(value is None for value in list(parameters.values())[3:]), "None takes the profile's value"


def test_defines_no_class_and_no_function(notebook):
    for text in code_of(notebook):
        assert not re.search(r"^\s*(class|def|async def)\s", text, re.M), text


def test_cells_are_short(notebook):
    lengths = [len([line for line in text.splitlines() if line.strip()]) for text in code_of(notebook)]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 10


def test_opens_with_its_question_and_names_no_machine(notebook):
    kind, text = notebook_cells(notebook)[0]
    assert kind == "markdown"
    assert re.match(r"# \d\d · .+", text)
    for part in ("**Question.**", "**Needs**", "**Cost**", "**You will learn**"):
        assert part in text
    assert not re.search(r"[\"'`]/(home|root|work|tmp|Users|opt)/", notebook.read_text())


def test_imports_what_there_is(notebook):
    code = "\n".join(code_of(notebook))
    assert needed_modules(code)
    assert "write_metrics(" in code
