"""The base: what the builder writes, and its objects beside Ray's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from clusters.build import DASHBOARD, files
from clusters.manifests.dashboard import PANELS, dashboard
from clusters.manifests.network import BESIDE, LINK_LOCAL
from clusters.scaling import table
from tests.clusters.documents import CLUSTERS, RAY_KINDS, base, of_kind, templates
from trace_ray.cli.app import app
from trace_ray.cluster.capacity import shortages
from trace_ray.config.load import load_config
from trace_ray.plan.manifest import groups_of
from trace_ray.runtime.metrics import COUNTERS, GAUGES

BASE = [document for _, document in base()]
JOBS = of_kind(BASE, "RayJob")


def test_the_files_are_what_the_builder_writes() -> None:
    folder, made = CLUSTERS / "base", files()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(made)
    for name, text in made.items():
        assert (folder / name).read_text() == text, f"run python -m clusters.build: {name}"


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    assert json.loads((CLUSTERS / DASHBOARD).read_text()) == dashboard(), "run python -m clusters.build"
    asked = " ".join(query for _, _, query, _ in PANELS)
    shown = set(re.findall(r"ray_trace_ray_(\w+)", asked))
    assert shown == {f"{name}_total" for name in COUNTERS} | set(GAUGES)
    for title, _, query, legend in PANELS:
        ours = re.findall(r"ray_trace_ray_(\w+?)(?:_total)?\b", query)
        tags = {tag for name in ours for tag in (COUNTERS | GAUGES)[name][1]}
        by = set(re.findall(r"\w+", (re.search(r"by \(([^)]*)\)", query) or ["", ""])[1]))
        assert by == set(re.findall(r"{{(\w+)}}", legend)), title
        assert not ours or by <= tags, title


def test_the_network_policy_opens_no_way_to_the_metadata_service() -> None:
    (policy,) = of_kind(BASE, "NetworkPolicy")
    rules = policy["spec"]["egress"]
    wide = [to["ipBlock"] for rule in rules for to in rule["to"] if to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"]
    assert wide
    assert all(LINK_LOCAL in block["except"] for block in wide)
    for rule in rules:
        if any(to.get("ipBlock", {}).get("cidr", "").startswith("169.254") for to in rule["to"]):
            assert {port["port"] for port in rule["ports"]} == {53}, "NodeLocal DNS and nothing else there"
    ours = [{"podSelector": policy["spec"]["podSelector"]}]
    assert all(rule.get("ports") or rule["from"] == ours for rule in policy["spec"]["ingress"])


def test_the_network_policy_locks_out_nobody_who_is_needed() -> None:
    (policy,) = of_kind(BASE, "NetworkPolicy")
    out = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
    assert out == {53, 443, 6443, *BESIDE.values()}
    (operator,) = [
        peer
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if peer.get("podSelector", {}).get("matchLabels") == {"app.kubernetes.io/name": "kuberay-operator"}
    ]
    assert operator["namespaceSelector"] == {}, "in whatever namespace it is"


def test_prometheus_finds_its_ports_on_every_pod_and_is_let_in() -> None:
    monitors = {
        found["spec"]["selector"]["matchLabels"]["ray.io/node-type"]: found for found in of_kind(BASE, "PodMonitor")
    }
    assert set(monitors) == {"head", "worker"}
    (policy,) = of_kind(BASE, "NetworkPolicy")
    open_to_it = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", [])}
    for document in of_kind(BASE, *RAY_KINDS):
        for group, template in templates(document):
            monitor = monitors["head" if group == "head" else "worker"]
            chosen = dict(monitor["spec"]["selector"]["matchLabels"])
            del chosen["ray.io/node-type"]  # the operator's own
            assert chosen.items() <= template["metadata"]["labels"].items()
            ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                assert ports[endpoint["port"]] in open_to_it, group
    assert all(found["metadata"]["labels"]["release"] == "prometheus" for found in monitors.values())


def test_no_pod_is_evicted_and_none_pushes_another_out() -> None:
    (budget,) = of_kind(BASE, "PodDisruptionBudget")
    assert isinstance(budget["spec"]["minAvailable"], int), "no percentage for pods of a controller without scale"
    assert budget["spec"]["minAvailable"] > 1000
    assert {priority["preemptionPolicy"] for priority in of_kind(BASE, "PriorityClass")} == {"Never"}


@pytest.mark.parametrize("job", JOBS, ids=[job["metadata"]["name"] for job in JOBS])
def test_jobs_say_what_the_command_line_understands(job: dict[str, dict[str, str]]) -> None:
    program, *arguments = shlex.split(job["spec"]["entrypoint"])[1:]
    command = get_command(app).commands[Path(program).stem]  # type: ignore[attr-defined]
    given = command.make_context(program, arguments).params
    assert given["run"].startswith("s3://REPLACE-ME-BUCKET/")
    assert [str(path) for path in given["config"]] == ["/etc/trace-ray/run.yaml"]


def test_the_cpu_example_fits_the_cpu_pods() -> None:
    config = load_config(["examples/kuberay_cpu"])
    for document in of_kind(BASE, *RAY_KINDS):
        if document["metadata"]["name"].startswith("trace-ray-cpu"):
            assert list(shortages(config, groups_of(document))) == []


def test_no_secret_is_in_any_cluster_file() -> None:
    secret = re.compile(r"AKIA[0-9A-Z]{12,}|(?i:secret_access_key|auth_token)\s*[:=]\s*[^\s\"'$]|BEGIN [A-Z ]*PRIVATE")
    for path in CLUSTERS.rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".sh", "", ".md", ".json"):
            assert not secret.search(path.read_text()), path
            assert "kind: Secret\n" not in path.read_text(), path


def test_the_scaling_table_is_what_the_arithmetic_gives() -> None:
    assert table() in (CLUSTERS / "SCALING.md").read_text()
