# The graph of the notebooks. `python -m d3s_utils.job` (which `make run` calls) starts it and hands over, as config,
# what d3s_utils/notebook_graph.py says of each notebook. A rule's output is the notebook's metrics.json, its log the
# executed notebook. A rule runs again when its fingerprint changes: the hash of all that the notebook depends on
# (parameters, the notebook's cells, the modules they import, photos, weights, the notebooks before it).
# Paths are relative to the run's folder, outputs/<profile>.
import shlex


rule all:
    input:
        [f"{stem}/metrics.json" for stem in config["notebooks"]],


for place, (stem, notebook) in enumerate(config["notebooks"].items()):

    rule:
        name:
            notebook["name"]
        input:
            [f"{needed}/metrics.json" for needed in notebook["needs"]],
        output:
            f"{stem}/metrics.json",
        log:
            f"{stem}/{stem}.ipynb",
        params:
            python=shlex.quote(config["python"]),
            root=shlex.quote(config["root"]),
            notebook=shlex.quote(notebook["file"]),
            folder=stem,
            fingerprint=notebook["fingerprint"],
        priority: -place
        threads: workflow.cores or 1
        shell:
            "PYTHONPATH={params.root} {params.python} -m d3s_utils.notebook_run"
            " {params.notebook} {params.folder} --threads {threads}"
