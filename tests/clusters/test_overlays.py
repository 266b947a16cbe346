"""Every overlay, as Kustomize builds it: KubeRay takes it, its run's settings are good, every bundle lands on its group."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.clusters.documents import (
    CLUSTERS,
    OVERLAYS,
    amount,
    build,
    built,
    cluster_spec,
    container,
    groups,
    objects,
    of_kind,
    ray_object,
    validator_of,
)
from tests.clusters.operator_rules import refusals
from trace_ray.cluster.capacity import demands, rooms, shortages, strays
from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.plan.manifest import groups_of

CLOUDS = [name for name in OVERLAYS if name != "kind"]
every = pytest.mark.parametrize("name", OVERLAYS)
cloud = pytest.mark.parametrize("name", CLOUDS)


def test_there_are_those_that_the_steps_name() -> None:
    assert OVERLAYS == ["2x8-trainer", "aks", "eks", "gke", "h100-8x", "kind", "kueue"]


@every
def test_kuberay_takes_it(name: str) -> None:
    document = ray_object(objects(name))
    found = sorted(validator_of(document["kind"]).iter_errors(document), key=str)
    assert not found, [f"{error.json_path}: {error.message[:200]}" for error in found]
    assert refusals(document) == []


@every
def test_filled_in_nothing_is_left_open(name: str, filled: Path) -> None:
    """The base's own placeholders are covered: of the overlay alone there is something to fill in."""
    text = build(filled / "overlays" / name)
    assert "REPLACE-ME" not in text
    assert "example-bucket" not in text
    if name in ("eks", "gke", "aks"):
        assert "REPLACE-ME" in build(CLUSTERS / "overlays" / name)


def test_the_steps_fill_in_every_file(filled: Path) -> None:
    files = [path for folder in ("overlays", "iam") for path in (filled / folder).rglob("*.*")]
    assert [path for path in files if "REPLACE-ME" in re.sub(r"(?m)#.*", "", path.read_text())] == []


def run_config(name: str, filled: Path, tmp_path: Path) -> Config:
    """The settings as the driver reads them: the ConfigMap's file and the words of the entry point."""
    document = yaml.safe_load_all(build(filled / "overlays" / name))
    made = tuple(document)
    (job,) = of_kind(made, "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:4] == ["python", "/app/jobs/run.py", "-c", "/etc/trace-ray/run.yaml"]
    (settings,) = [
        settings_map
        for settings_map in of_kind(made, "ConfigMap")
        if settings_map["metadata"]["name"] == "trace-ray-run"
    ]
    (tmp_path / "run.yaml").write_text(settings["data"]["run.yaml"])
    assert words[5].startswith("s3://a-bucket/")
    return load_config([str(tmp_path / "run.yaml")], words[6:])


@cloud
def test_every_bundle_lands_on_its_group(name: str, filled: Path, tmp_path: Path) -> None:
    config = run_config(name, filled, tmp_path)
    found = groups_of(ray_object(objects(name)))
    assert [str(mistake) for mistake in (*shortages(config, found), *strays(config, found))] == []
    landing = {demand.setting: {g for g, n in rooms(demand, found).items() if n} for demand in demands(config)}
    assert all(group.startswith("trainer") for group in landing["realign.workers"])
    assert all(group.startswith("judge") for group in landing["triage.judge.max_actors"])
    assert "REPLACE-ME" not in repr(config)


@pytest.mark.parametrize(("name", "workers", "zero"), [("h100-8x", 8, "8gpu_lora"), ("2x8-trainer", 16, "2x8gpu_lora")])
def test_the_eight_gpu_groups_fit_the_shipped_zero_files(
    name: str, workers: int, zero: str, filled: Path, tmp_path: Path
) -> None:
    config = run_config(name, filled, tmp_path)
    assert (config.realign.workers, config.realign.use_gpu) == (workers, True)
    for file in (zero, zero.replace("lora", "full")):
        files = ["examples/2x8h100_llama", f"zero/{file}", "policies/brevity"]
        with_file = load_config(files, ["realign.select.steps=0"])  # which is of adapters alone
        assert list(shortages(with_file, groups_of(ray_object(objects(name))))) == []


def test_two_machines_train_over_efa_in_one_zone() -> None:
    trainer = groups(ray_object(objects("2x8-trainer")))["trainer-on-demand"]
    assert trainer["maxReplicas"] == 2
    limits = container(trainer)["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("8", "32")
    assert limits["hugepages-2Mi"] == "5120Mi"
    given = {variable["name"]: variable.get("value") for variable in container(trainer)["env"]}
    assert given["FI_PROVIDER"] == "efa"
    assert given["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "TRACE_RAY_CACHE" in given, "the group's other variables stay"
    pod = trainer["template"]
    (term,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"
    assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert container(trainer)["image"].endswith("-efa")


def test_kueue_admits_all_pods_or_none() -> None:
    made = objects("kueue")
    job = ray_object(made)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == of_kind(made, "LocalQueue")[0]["metadata"]["name"]
    assert job["spec"]["suspend"]
    assert cluster_spec(job)["enableInTreeAutoscaling"] is False
    (queue,) = of_kind(made, "ClusterQueue")
    (resources,) = queue["spec"]["resourceGroups"]
    quotas = {quota["name"]: amount(quota["nominalQuota"]) for quota in resources["flavors"][0]["resources"]}
    assert set(quotas) == set(resources["coveredResources"])
    needs = dict.fromkeys(quotas, 0.0)
    head, send = cluster_spec(job)["headGroupSpec"]["template"], job["spec"]["submitterPodTemplate"]
    pods = [(1, head["spec"]["containers"][0]), (1, send["spec"]["containers"][0])]
    pods += [(1, cluster_spec(job)["autoscalerOptions"])]
    for group in groups(job).values():
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        pods.append((group["replicas"], container(group)))
    for count, needed in pods:
        for resource, value in needed["resources"]["requests"].items():
            needs[resource] += count * amount(value)
    assert all(needs[resource] <= quotas[resource] for resource in needs), needs


@cloud
def test_cpu_pods_have_the_cpu_image_and_the_clouds_the_cuda_one(name: str) -> None:
    images = {container(group)["image"] for group in groups(ray_object(objects(name))).values()}
    assert len(images) == 1
    assert re.search(r":[\d.]+-cuda(-efa)?$", images.pop())
    small = {container(group)["image"] for group in groups(ray_object(objects("kind"))).values()}
    assert small == {"trace-ray:0.1.0-cpu"}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("eks", {"169.254.170.23/32"}),
        ("gke", {"169.254.169.254/32", "169.254.169.252/32"}),
        ("aks", set()),
        ("kind", set()),
    ],
)
def test_only_its_own_clouds_identity_endpoint_is_open(name: str, addresses: set[str]) -> None:
    (policy,) = of_kind(objects(name), "NetworkPolicy")
    blocks = [to["ipBlock"]["cidr"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert {block for block in blocks if block.startswith("169.254.")} - {"169.254.20.10/32"} == addresses


def test_head_and_workers_have_roles_of_their_own() -> None:
    roles = {
        account["metadata"]["name"]: account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        for account in of_kind(objects("eks"), "ServiceAccount")
    }
    assert {name: role.rpartition("/")[2] for name, role in roles.items()} == {name: name for name in roles}
    assert set(roles) == {"trace-ray-head", "trace-ray-worker"}


@pytest.mark.parametrize("component", ["kai", "mtls", "volcano"])
def test_a_component_stands_on_an_overlay(component: str, filled: Path) -> None:
    folder = filled / "overlays" / f"with-{component}"
    folder.mkdir()
    made = {"resources": ["../eks"], "components": [f"../../components/{component}"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
    (job,) = of_kind(built(folder), "RayJob")
    assert list(validator_of("RayJob").iter_errors(job)) == []
    assert refusals(job, frozenset({"RayClusterMTLS"})) == []
    match component:
        case "volcano":
            assert job["metadata"]["labels"]["volcano.sh/queue-name"]
        case "kai":
            assert job["metadata"]["labels"]["kai.scheduler/queue"]
            assert job["spec"]["submissionMode"] == "HTTPMode", "KAI takes no RayJob with a pod that submits"
        case "mtls":
            assert cluster_spec(job)["tlsOptions"] == {"enabled": True}


@pytest.mark.parametrize("scheduler", ["volcano", "kai"])
def test_of_a_fixed_size_both_trainers_are_in_the_gang(scheduler: str, filled: Path) -> None:
    """KubeRay makes a pod group of as many members as groups have at least, or of all where nothing scales."""
    folder = filled / "overlays" / f"gang-{scheduler}"
    folder.mkdir()
    components = [f"../../components/{name}" for name in ("fixed-size", scheduler)]
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../2x8-trainer"], "components": components})
    )
    job = ray_object(built(folder))
    assert refusals(job) == []
    assert list(validator_of("RayJob").iter_errors(job)) == []
    assert cluster_spec(job)["enableInTreeAutoscaling"] is False
    assert {name: group["replicas"] for name, group in groups(job).items()} == {
        "cpu": 2,
        "judge-on-demand": 4,
        "trainer-on-demand": 2,
    }


@pytest.mark.parametrize(
    ("name", "more"), [("eks", ["read-only-cache-spot"]), ("h100-8x", ["read-only-cache-spot"]), ("kueue", [])]
)
def test_the_model_cache_can_be_read_only(name: str, more: list[str], filled: Path) -> None:
    """Of every group that there is, and none is made by it."""
    folder = filled / "overlays" / f"read-only-{name}"
    folder.mkdir()
    components = [f"../../components/{component}" for component in ("read-only-cache", *more)]
    made = {"resources": [f"../{name}"], "components": components}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
    job = ray_object(built(folder))
    assert list(validator_of("RayJob").iter_errors(job)) == []
    assert set(groups(job)) == set(groups(ray_object(objects(name))))
    for group in groups(job).values():
        mounts = {mount["mountPath"]: mount for mount in container(group)["volumeMounts"]}
        assert mounts["/cache"]["readOnly"]
        assert len(mounts) == 4
        assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container(group)["env"]


def test_the_same_overlay_makes_a_cluster_that_stays(filled: Path) -> None:
    folder = filled / "overlays" / "staying"
    shutil.copytree(filled / "overlays" / "eks", folder)
    text = (folder / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(text.replace("- ../../base/gpu-job", "- ../../base/gpu-cluster"))
    (cluster,) = of_kind(built(folder), "RayCluster")
    assert refusals(cluster) == []
    assert "REPLACE-ME" not in build(folder)


@pytest.mark.parametrize("cloud_overlay", ["gke", "aks"])
def test_eight_gpus_stand_on_the_other_clouds_too(cloud_overlay: str, filled: Path) -> None:
    folder = filled / "overlays" / f"h100-on-{cloud_overlay}"
    shutil.copytree(filled / "overlays" / "h100-8x", folder)
    text = (folder / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(text.replace("[../eks]", f"[../{cloud_overlay}]"))
    job = ray_object(built(folder))
    assert refusals(job) == []
    assert groups(job)["trainer-on-demand"]["rayStartParams"]["num-gpus"] == "8"
