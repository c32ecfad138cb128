"""Studies on a Ray cluster, whose nodes may be lost."""

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from test_study_processes import rows

from advreg.cli import main
from advreg.errors import ConfigurationError, MissingExtraError
from advreg.study.compare import plan
from advreg.study.execution import execute
from advreg.study.ray_engine import OnRay
from advreg.study.reading import read_study

TEXT = """
base: {data: {name: digits, limit: 64, validation: 20}, model: convnet, epochs: 12, batch_size: 16}
arms:
  plain: {method: standard}
  slot: {method: {name: layerwise, sites: ["blocks.*"], epsilon: 0.1}}
seeds: 2
evaluation: {images: 50, attacked: 20, epsilons: [0.1], steps: 2}
"""


@pytest.mark.full
def test_a_study_that_loses_a_node_is_complete_and_equal_to_a_local_one(
    tmp_path, capfd, monkeypatch
):
    pytest.importorskip("ray")
    # A node that shares a busy machine with others must not kill its workers, or starve them.
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    from ray.cluster_utils import Cluster

    file, out = tmp_path / "mine.yaml", tmp_path / "ray"
    file.write_text(TEXT)
    runs = plan(read_study(file))
    for run in runs:
        execute(run, tmp_path / "here")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    lost = cluster.add_node(num_cpus=1)
    begun = []

    def lose():
        while len(begun) < 2:  # one on each node
            begun[:] = [
                path for path in out.glob("runs/*/run/metrics.jsonl") if path.stat().st_size
            ]
            time.sleep(0.02)
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    import ray

    try:
        code = main(
            [
                "compare",
                str(file),
                "--engine",
                "ray",
                "--address",
                cluster.address,
                "--out",
                str(out),
            ]
        )
        thread.join(60)
        assert [node["Alive"] for node in ray.nodes()].count(False) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert code == 0
    assert "on 2 nodes" in capfd.readouterr().out
    assert rows(runs, out) == rows(runs, tmp_path / "here")
    assert not json.loads((out / "results.json").read_text())["missing"]


def test_without_ray_or_its_cluster_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "advreg\[ray\]"'):
        OnRay()

    def init(address, **settings):
        raise ConnectionError(f"Could not connect to {address}.\nIs it up?")

    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init)
    )
    with pytest.raises(ConfigurationError, match="There is no Ray cluster at head:6379"):
        OnRay("head:6379")
    with pytest.raises(ConfigurationError, match="per_device is 0"):
        OnRay(per_device=0)
