"""Nodes that share no files, on one machine: a Ray cluster of several raylets, each with a scratch folder of its own.

    PYTHONPATH=FOLDER/site python small_nodes.py FOLDER URI JOB...

A process belongs to the node whose BLM_SCRATCH it has. What it asks for below another node's is not there: Python's own
ways to open, list, make and delete files raise FileNotFoundError, and FOLDER/trespass tells of it. (What native code
opens by a path is not seen.)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRIPT = __file__
NODES = 3
TIMEOUT_S = 900
MEET_S = 60
SITE = """
import os, sys

_disks = os.environ["TEST_DISKS"]
_mine = os.environ["BLM_SCRATCH"]
_asks = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.utime"}
_busy = []


def _only_mine(event, arguments):
    if event not in _asks or _busy:
        return
    for path in arguments[:2]:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and path.startswith(_disks + "/disk-") and not (path + "/").startswith(_mine + "/"):
            _busy.append(1)
            with open(_disks + "/trespass", "a") as file:
                print(event, path, "from", _mine, " ".join(sys.argv[:2]), file=file)
            _busy.pop()
            raise FileNotFoundError(2, "not on this node", path)


sys.addaudithook(_only_mine)
"""


def environment(folder: Path, node: int = 0) -> dict[str, str]:
    """Of a process of a node; node 0 is the driver's."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    return {
        "BLM_SCRATCH": str(folder / f"disk-{node}"),
        "TEST_DISKS": str(folder),
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parent)]),
    }


def on_nodes(folder: Path, uri: str, *job: str) -> tuple[dict[str, Any], str]:
    """Do a job of `JOBS` on a cluster of NODES nodes; returns what it returns and what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BLM_STORE", "BLM_HOME"))}
    with tempfile.TemporaryDirectory(prefix="r8-", ignore_cleanup_errors=True) as ray:
        more = {"RAY_TMPDIR": ray, "OMP_NUM_THREADS": "1"}  # the names of sockets must be short
        done = subprocess.run(
            [sys.executable, SCRIPT, str(folder), uri, *job],
            env=kept | environment(folder) | more,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert not (folder / "trespass").exists(), (folder / "trespass").read_text()[:3000]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def disks(folder: Path) -> list[Path]:
    """The nodes' scratch folders, the driver's first."""
    return [folder / f"disk-{node}" for node in range(NODES + 1)]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Nodes with one CPU each, the first with two, beside a head that works for nobody; yields the address."""
    from blm.cluster.ray_runtime import LOCAL_ENVIRONMENT, disconnect, set_environment

    set_environment(LOCAL_ENVIRONMENT)  # before Ray is imported
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
    )
    for node in range(1, NODES + 1):
        made.add_node(num_cpus=1 + (node == 1), object_store_memory=10**8, env_vars=environment(folder, node))
    try:
        yield made.address
    finally:
        disconnect()
        made.shutdown()


# ----------------------------------------------------------------------------------------------------------------- jobs


class Copier:
    """Writes what it reads in capitals, behind what stands in a file that all get; not before a second node has come,
    lest the first does everything."""

    def __init__(self, greeting: str) -> None:
        self._greeting = Path(greeting).read_text()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        words = [Path(source).read_text() for source in item["sources"]]
        target = Path(item["part"])
        meet(Path(os.environ["TEST_DISKS"]) / f"met-{target.parent.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._greeting + " ".join(words).upper())
        return {"disk": os.environ["BLM_SCRATCH"], "target": str(target)}


def meet(folder: Path) -> None:
    """Wait until processes of two nodes have come, or until it is clear that none will."""
    folder.mkdir(exist_ok=True)
    (folder / Path(os.environ["BLM_SCRATCH"]).name).touch()
    limit_s = time.monotonic() + MEET_S
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > limit_s:
            (folder / "nobody").touch()
        time.sleep(0.1)


def copied(home: Path) -> dict[str, Any]:
    """Items whose files are on the driver's disk and in the store alone, by light and by lasting workers."""
    from blm.cluster import depot
    from blm.pipelines.datasets.items import map_items

    stage = home / "run/copy-00000000"
    stage.mkdir(parents=True)
    sources = [stage / f"source-{number}" for number in range(8)]
    greeting = stage / "greeting"
    for number, path in enumerate([*sources, greeting]):
        path.write_text(f"word{number} ")
        depot.keep(path)
    disks_used: dict[str, list[str]] = {}
    for kind in ("light", "lasting"):
        items = [
            {"sources": [str(a), str(b)], "part": str(stage / kind / f"{number}.txt")}
            for number, (a, b) in enumerate(zip(sources, sources[::-1], strict=True))
        ]
        results = map_items(
            items,
            Copier,
            arguments={"greeting": str(greeting)},
            workers=NODES,
            light=kind == "light",
            reads=("sources", "greeting"),
            writes=("part",),
        )
        disks_used[kind] = sorted({result["disk"] for result in results})
    texts = {path.relative_to(stage).as_posix(): path.read_text() for path in stage.glob("*/*.txt")}
    return {"disks": disks_used, "texts": texts}


def ingested(home: Path, corpus: str) -> dict[str, Any]:
    """A corpus from outside, read on all nodes."""
    from small_stages import folder_hash
    from test_ingest_flow import config, run

    from blm.cluster import depot

    out = home / "run/corpora-00000000"
    report = run(config(Path(corpus)), out, workers=NODES)
    depot.here(out)
    return {"report": report, "hash": folder_hash(out)}


def data(home: Path, address: str, corpus: str) -> dict[str, Any]:
    """Items and a corpus, on one cluster."""
    from blm.cluster.ray_runtime import connect

    connect(num_cpus=1, address=address)
    return {"copied": copied(home), "ingested": ingested(home, corpus)}


def pipeline(home: Path, address: str, *options: str) -> dict[str, Any]:
    """`blm run --preset tiny` with what `options` set, up to the stage named last."""
    from blm.pipelines.config import load_config
    from blm.pipelines.run import RunOptions, run

    *assignments, until = options
    config = load_config("tiny", assignments)
    done = run(config, RunOptions(root=home, until=until, address=address, accept_code=True))
    return {name: item.manifest["content"] for name, item in done.items()}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"data": data, "pipeline": pipeline}


def main() -> None:
    """Do the jobs named on the command line; print what came of them as the last line."""
    from blm.cluster import depot

    folder, uri, name, *arguments = sys.argv[1:]
    home = depot.enter(uri)
    with cluster(Path(folder)) as address:
        result = JOBS[name](home, address, *arguments)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
