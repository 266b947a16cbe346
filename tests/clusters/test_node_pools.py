"""Nodes: every cloud's pools are those that pods select and tolerate, large enough, and tell Kubernetes what they have."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from tests.clusters.documents import CLUSTERS, Yaml, amount, built, cluster_spec, container, groups, objects, of_kind
from tests.clusters.documents import ray_object as ray
from tests.support.documents import commands

NODES = CLUSTERS / "overlays" / "eks" / "nodes"
Labels = tuple[tuple[str, str], ...]
ADDED = {"gke": {("nvidia.com/gpu", "NoSchedule")}, "aks": {("kubernetes.azure.com/scalesetpriority", "NoSchedule")}}
"""Taints that a cloud adds by itself: GKE to nodes with GPUs, AKS to those on spot."""


def pods(overlay: str) -> list[Yaml]:
    """The templates of the submitter, the head and every group that may have pods."""
    job = ray(objects(overlay))
    workers = [group["template"] for group in groups(job).values() if group["maxReplicas"]]
    return [job["spec"]["submitterPodTemplate"], cluster_spec(job)["headGroupSpec"]["template"], *workers]


def selected(pod: Yaml) -> Labels:
    return tuple(sorted(pod["spec"]["nodeSelector"].items()))


def tolerated(pod: Yaml) -> set[tuple[str, str]]:
    return {(toleration["key"], toleration["effect"]) for toleration in pod["spec"]["tolerations"]}


def machines() -> dict[Labels, Yaml]:
    pools = of_kind(built(NODES), "NodePool")
    return {tuple(sorted(pool["spec"]["template"]["metadata"]["labels"].items())): pool for pool in pools}


def test_karpenters_pools_are_those_that_pods_select_and_tolerate() -> None:
    by_labels, used = machines(), set()
    for pod in pods("eks"):
        used.add(selected(pod))
        taints = by_labels[selected(pod)]["spec"]["template"]["spec"]["taints"]
        assert {(taint["key"], taint["effect"]) for taint in taints} <= tolerated(pod)
    assert used == set(by_labels)


def test_a_node_without_a_disk_of_its_own_has_room_for_its_pods() -> None:
    (machine,) = of_kind(built(NODES), "EC2NodeClass")
    assert machine["spec"]["instanceStorePolicy"] == "RAID0"
    disk = amount(machine["spec"]["blockDeviceMappings"][0]["ebs"]["volumeSize"])
    for pod in pods("eks"):
        if dict(selected(pod))["trace-ray/pool"] in ("head", "cpu"):
            asked = pod["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"]
            assert amount(asked) < 0.8 * disk


@pytest.mark.parametrize(
    ("cloud", "command", "flag", "between"),
    [
        ("gke", "gcloud container node-pools create", "--node-labels", ","),
        ("aks", "az aks nodepool add", "--labels", " "),
    ],
)
def test_the_steps_make_every_pool_that_pods_select(cloud: str, command: str, flag: str, between: str) -> None:
    steps = [step.text for step in commands(CLUSTERS / "README.md") if step.text.startswith(command)]
    made: dict[Labels, set[tuple[str, str]]] = {}
    for step in steps:
        labels = re.search(rf"{flag} ((?:[\w/.-]+=[\w-]+{between}?)+)", step)
        taints = re.search(r"--node-taints (\S+)", step)
        assert labels, step
        assert taints, step
        words = [word.split("=") for word in labels[1].strip().split(between)]
        named = {(taint.split("=")[0], taint.rpartition(":")[2]) for taint in taints[1].split(",")}
        made[tuple(sorted((key, value) for key, value in words))] = named
        # Both clouds make three machines of a new pool at once, unless told otherwise: three times eight GPUs.
        scales = "autoscal" in step
        assert not scales or re.search(r"--(num-nodes|node-count) 0 ", step), step
    assert {selected(pod) for pod in pods(cloud)} == set(made)
    for pod in pods(cloud):
        assert made[selected(pod)] <= tolerated(pod)
    for group in groups(ray(objects(cloud))).values():
        gpu, spot = "nvidia.com/gpu" in container(group)["resources"]["limits"], group["priority"] > 0
        if (cloud == "gke" and gpu) or (cloud == "aks" and spot):
            assert ADDED[cloud] <= tolerated(group["template"])


def test_aks_spot_pods_alone_tolerate_its_taint() -> None:
    for name, group in groups(ray(objects("aks"))).items():
        keys = {key for key, _ in tolerated(group["template"])}
        assert ("kubernetes.azure.com/scalesetpriority" in keys) == name.endswith("-spot")


def test_device_plugins_run_on_every_node_with_gpus_whatever_its_taints() -> None:
    """By default they tolerate nvidia.com/gpu alone, and wait for labels that nobody gives these nodes."""
    values = yaml.safe_load((CLUSTERS / "device-plugin-values.yaml").read_text())
    assert values["tolerations"] == [{"operator": "Exists"}]
    (term,) = values["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (wanted,) = term["matchExpressions"]
    with_gpus = {
        group["labels"][wanted["key"]]
        for overlay in ("eks", "gke", "aks", "2x8-trainer")
        for group in groups(ray(objects(overlay))).values()
        if "nvidia.com/gpu" in container(group)["resources"]["limits"]
    }
    assert set(wanted["values"]) == with_gpus


def test_karpenter_is_told_of_the_huge_pages_that_pods_ask_for() -> None:
    (told,) = of_kind(built(CLUSTERS / "overlays" / "2x8-trainer" / "nodes"), "NodeOverlay")
    trainer = groups(ray(objects("2x8-trainer")))["trainer-on-demand"]
    ((name, pages),) = told["spec"]["capacity"].items()
    assert amount(container(trainer)["resources"]["requests"][name]) <= amount(pages)
    (requirement,) = told["spec"]["requirements"]
    pool = machines()[selected(trainer["template"])]["spec"]["template"]["spec"]
    (kinds,) = [r["values"] for r in pool["requirements"] if r["key"] == requirement["key"]]
    assert set(requirement["values"]) <= set(kinds)
    installs = [c.text for c in commands(CLUSTERS / "README.md") if c.text.startswith("helm install karpenter")]
    assert all("settings.featureGates.nodeOverlay=true" in text for text in installs)
    assert installs


def test_the_cluster_that_eksctl_makes_is_the_one_that_the_nodes_look_for() -> None:
    made = yaml.safe_load((CLUSTERS / "overlays" / "eks" / "cluster.yaml").read_text())
    (machine,) = of_kind(built(NODES), "EC2NodeClass")
    for terms in ("subnetSelectorTerms", "securityGroupSelectorTerms"):
        assert machine["spec"][terms] == [{"tags": made["metadata"]["tags"]}]
    (mapped,) = made["iamIdentityMappings"]
    assert mapped["arn"].endswith(f":role/{machine['spec']['role']}")
    assert made["iam"]["withOIDC"], "service accounts' roles"
    addons = {addon["name"]: addon for addon in made["addons"]}
    assert {"eks-pod-identity-agent", "aws-efs-csi-driver"} <= set(addons)
    assert "enableNetworkPolicy" in addons["vpc-cni"]["configurationValues"]
    (storage,) = of_kind(built(NODES), "StorageClass")
    (claim,) = of_kind(objects("eks"), "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == storage["metadata"]["name"]
    user = pods("eks")[1]["spec"]["securityContext"]["runAsUser"]
    assert (storage["parameters"]["uid"], storage["parameters"]["gid"]) == (str(user), str(user))


def test_the_steps_upload_the_models_that_the_run_names() -> None:
    """Each to the folder of the bucket where its overlay looks for it."""
    steps = [shlex.split(step.text) for step in commands(CLUSTERS / "README.md") if step.text.startswith("hf download")]
    there = {f"s3://REPLACE-ME-BUCKET/{words[words.index('--local-dir') + 1]}" for words in steps}
    for overlay in ("eks", "gke", "aks", "h100-8x", "2x8-trainer"):
        run = yaml.safe_load((CLUSTERS / "overlays" / overlay / "run.yaml").read_text())
        named = {run["model"]["path"], run["triage"]["judge"]["model"], run["evaluate"]["judge"]["model"]}
        assert named <= there, overlay
