"""Pods, of the base and of every overlay as Kustomize builds it: whole, confined, consistent with what Ray is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.manifests.pods import API_TOKEN, DRAIN_SECONDS, GRACE_SECONDS, KEYS
from tests.clusters.documents import (
    CLUSTERS,
    OVERLAYS,
    RAY_KINDS,
    Yaml,
    amount,
    base,
    built,
    cluster_spec,
    of_kind,
    templates,
)

BASE = [document for _, document in base()]
SETS = {"base": tuple(BASE)} | {name: built(CLUSTERS / "overlays" / name) for name in OVERLAYS}
RAY = [
    pytest.param(objects, ray_object, id=f"{where}: {ray_object['metadata']['name']}")
    for where, objects in SETS.items()
    for ray_object in of_kind(objects, *RAY_KINDS)
]
each = pytest.mark.parametrize(("objects", "document"), RAY)
Objects = tuple[Yaml, ...]


@each
def test_what_pods_name_exists(objects: Objects, document: Yaml) -> None:
    names = {(d["kind"], d["metadata"]["name"]) for d in objects}
    (policy,) = of_kind(objects, "NetworkPolicy")
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    images = set()
    for group, template in templates(document):
        spec, labels = template["spec"], template["metadata"]["labels"]
        (container,) = spec["containers"]
        images.add(container["image"])
        volumes = {volume["name"] for volume in spec["volumes"]} - {"api-token"}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, group
        assert ("ServiceAccount", spec["serviceAccountName"]) in names
        assert ("PriorityClass", spec["priorityClassName"]) in names
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        for chooser in (policy["spec"]["podSelector"], budget["spec"]["selector"]):
            assert chooser["matchLabels"].items() <= labels.items()
    assert len(images) == 1


@each
def test_kuberays_service_for_a_job_finds_the_head(objects: Objects, document: Yaml) -> None:
    """It selects by app.kubernetes.io/name: kuberay, which the operator sets unless the template says otherwise."""
    for _, template in templates(document):
        assert "app.kubernetes.io/name" not in template["metadata"]["labels"]


@each
def test_pods_are_confined(objects: Objects, document: Yaml) -> None:
    pods = [template["spec"] for _, template in templates(document)]
    if document["kind"] == "RayJob":
        pods.append(document["spec"]["submitterPodTemplate"]["spec"])
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"]["drop"] == ["ALL"]
    assert cluster_spec(document)["authOptions"] == {"mode": "token", "secretName": "trace-ray-token"}


@each
def test_only_the_autoscaler_has_the_api_servers_token(objects: Objects, document: Yaml) -> None:
    options = cluster_spec(document)["autoscalerOptions"]
    (mount,) = options["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"]) == (API_TOKEN, True)
    for group, template in templates(document):
        mounted = {place["name"] for place in template["spec"]["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert mount["name"] not in mounted
        assert (mount["name"] in volumes) == (group == "head")
        if group == "head":
            sources = volumes[mount["name"]]["projected"]["sources"]
            assert {kind for source in sources for kind in source} == {
                "serviceAccountToken",
                "configMap",
                "downwardAPI",
            }


@each
def test_the_head_runs_no_task_and_workers_drain_in_time(objects: Objects, document: Yaml) -> None:
    spec = cluster_spec(document)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["template"]["spec"].get("nodeSelector", {}).get("trace-ray/market") != "spot"
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert DRAIN_SECONDS < GRACE_SECONDS
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["/opt/trace-ray/drain.sh", str(DRAIN_SECONDS)]
        assert pod["terminationGracePeriodSeconds"] == GRACE_SECONDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@each
def test_ray_is_told_what_a_pod_has(objects: Objects, document: Yaml) -> None:
    for group in cluster_spec(document)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert pod["containers"][0]["resources"]["requests"] == limits
        assert group["rayStartParams"]["num-cpus"] == limits["cpu"]
        assert group["rayStartParams"]["num-gpus"] == limits.get("nvidia.com/gpu", "0")
        wanted = pod["nodeSelector"]
        assert group["labels"]["trace-ray/pool"] == wanted["trace-ray/pool"]
        assert group["labels"]["ray.io/market-type"] == wanted["trace-ray/market"]
        assert group["template"]["metadata"]["labels"]["trace-ray/pool"] == wanted["trace-ray/pool"]
        tolerated = {toleration["key"] for toleration in pod["tolerations"]}
        assert "trace-ray/pool" in tolerated
        assert ("nvidia.com/gpu" in tolerated) == ("nvidia.com/gpu" in limits)
        assert ("trace-ray/spot" in tolerated) == (wanted["trace-ray/market"] == "spot")


@each
def test_shared_memory_holds_rays_object_store(objects: Objects, document: Yaml) -> None:
    """Ray takes 30 % of the memory, or what is in /dev/shm but for a twentieth, or 10 GB where that is less."""
    for group, template in templates(document):
        memory = amount(template["spec"]["containers"][0]["resources"]["limits"]["memory"])
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "shm"]
        assert volume["emptyDir"]["medium"] == "Memory"
        fits = 0.95 * amount(volume["emptyDir"]["sizeLimit"])
        assert min(0.3 * memory, max(10e9, fits)) <= fits, group
        assert fits < memory


@each
def test_the_nodes_disk_is_asked_for(objects: Objects, document: Yaml) -> None:
    """Without a request a pod is placed where the root disk is 20 GiB, and evicted as it fills it."""
    for group, template in templates(document):
        on_disk = [
            amount(volume["emptyDir"]["sizeLimit"])
            for volume in template["spec"]["volumes"]
            if "emptyDir" in volume and volume["emptyDir"].get("medium") is None
        ]
        limits = template["spec"]["containers"][0]["resources"]["limits"]
        assert sum(on_disk) < amount(limits["ephemeral-storage"]), group


@each
def test_what_pods_write_lies_on_a_volume(objects: Objects, document: Yaml) -> None:
    """The root file system is read-only."""
    for group, template in templates(document):
        container = template["spec"]["containers"][0]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        values = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        for key in ("HOME", "TRACE_RAY_CACHE", "VLLM_CACHE_ROOT"):
            folder = Path(values[key])
            assert any(folder.is_relative_to(mount) for mount in mounts), (group, key)
        assert "HF_HOME" in values


@each
def test_keys_come_from_secrets_that_need_not_be(objects: Objects, document: Yaml) -> None:
    for _, template in templates(document):
        found = {variable["name"]: variable for variable in template["spec"]["containers"][0]["env"]}
        for name in KEYS:
            reference = found[name]["valueFrom"]["secretKeyRef"]
            assert reference["optional"] is True
        assert {"name": "trace-ray-registry"} in template["spec"]["imagePullSecrets"]
        plain = {name for name, variable in found.items() if "value" in variable}
        assert not [name for name in plain if any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))]


@each
def test_nothing_moves_or_kills_a_pod_at_work(objects: Objects, document: Yaml) -> None:
    for group, template in templates(document):
        notes = template["metadata"]["annotations"]
        assert notes["karpenter.sh/do-not-disrupt"] == "true"
        assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        container = template["spec"]["containers"][0]
        for kind in ("readinessProbe", "livenessProbe"):
            *python, code = container[kind]["exec"]["command"]
            assert python == ["python", "-I", "-S", "-c"]
            compile(code, f"{group}: {kind}", "exec")
        alive = container["livenessProbe"]
        assert alive["timeoutSeconds"] * 3 >= 60, "a loaded head answers late"
        assert alive["periodSeconds"] * alive["failureThreshold"] >= 600


@each
def test_a_users_mistake_is_not_retried(objects: Objects, document: Yaml) -> None:
    """The driver, on the head, stops its job by itself; KubeRay takes a stopped job as complete."""
    from trace_ray.cluster.own_job import SETTING

    for group, template in templates(document):
        given = {variable["name"]: variable.get("value") for variable in template["spec"]["containers"][0]["env"]}
        assert given.get(SETTING) == ("stop" if group == "head" else None)


def test_spot_falls_back_to_on_demand_within_minutes() -> None:
    """The variable is one that Ray's autoscaler reads."""
    import inspect

    from ray.autoscaler.v2.instance_manager import config

    for document in of_kind(BASE, *RAY_KINDS):
        (given,) = cluster_spec(document)["autoscalerOptions"]["env"]
        assert given["name"] in inspect.getsource(config.InstanceReconcileConfig)
        assert 300 <= int(given["value"]) <= 1800


def test_judges_and_trainers_have_spot_and_on_demand_gpus_that_scale_from_zero() -> None:
    (gpu,) = [d for d in BASE if d["metadata"]["name"] == "trace-ray-gpu"]
    kinds = set()
    for group in cluster_spec(gpu)["workerGroupSpecs"]:
        if group["rayStartParams"]["num-gpus"] == "0":
            continue
        wanted = group["template"]["spec"]["nodeSelector"]
        kinds.add((wanted["trace-ray/pool"], wanted["trace-ray/market"], group["priority"] > 0))
        assert group["minReplicas"] == 0 < group["maxReplicas"]
    assert kinds == {(pool, *kind) for pool in ("judge", "trainer") for kind in (("spot", True), ("on-demand", False))}


@pytest.mark.parametrize(("pool", "room"), [("judge", 60), ("trainer", 335), ("cpu", 29)])
def test_a_pod_fits_the_machine_it_is_meant_for(pool: str, room: int) -> None:
    """What a g6e.2xlarge, a g6e.12xlarge and an m7i.2xlarge leave to pods, in GiB, once kubelet and daemons have theirs."""
    found = [
        amount(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) / 2**30
        for document in BASE
        if document["metadata"]["name"] == "trace-ray-gpu"
        for group in cluster_spec(document)["workerGroupSpecs"]
        if group["labels"]["trace-ray/pool"] == pool
    ]
    assert found
    assert max(found) <= room


def test_no_object_of_the_base_is_made_twice() -> None:
    names = {(d["kind"], d["metadata"]["name"]) for d in BASE}
    assert len(names) == len(BASE)
