"""The commands of other people's programs that the documents name, and the options of each: what a typing error would miss.

Taken from the programs' own references; none of them is here to be asked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_NODE_POOL = {
    "--cluster",
    "--location",
    "--machine-type",
    "--num-nodes",
    "--enable-autoscaling",
    "--min-nodes",
    "--max-nodes",
}
_NODE_POOL |= {
    "--disk-size",
    "--node-labels",
    "--node-taints",
    "--accelerator",
    "--spot",
    "--ephemeral-storage-local-ssd",
}
_AKS_POOL = {
    "--resource-group",
    "--cluster-name",
    "--name",
    "--node-count",
    "--node-vm-size",
    "--labels",
    "--node-taints",
}
_AKS_POOL |= {"--priority", "--eviction-policy", "--spot-max-price", "--enable-cluster-autoscaler", "--min-count"}
_AKS_POOL |= {"--max-count", "--node-osdisk-size"}
_INSTALL = {"--version", "--values", "--wait", "--namespace", "--create-namespace"}

OPTIONS: dict[str, set[str]] = {
    "kind create cluster": {"--config", "--name"},
    "kind load docker-image": {"--name"},
    "kind delete cluster": {"--name"},
    "helm repo add": set(),
    "helm install": _INSTALL,
    "aws ecr create-repository": {"--repository-name"},
    "aws s3api create-bucket": {"--bucket", "--region"},
    "aws s3 sync": set(),
    "aws s3 cp": set(),
    "aws iam create-policy": {"--policy-name", "--policy-document"},
    "eksctl create iamserviceaccount": {
        "--cluster",
        "--namespace",
        "--name",
        "--role-name",
        "--attach-policy-arn",
        "--role-only",
        "--approve",
    },
    "gcloud container clusters create": {"--location", "--num-nodes", "--addons"},
    "gcloud container node-pools create": _NODE_POOL,
    "gcloud storage buckets create": {"--location"},
    "gcloud storage hmac create": set(),
    "az aks create": {"--resource-group", "--name", "--node-count"},
    "az aks nodepool add": _AKS_POOL,
    "hf download": {"--local-dir"},
    "docker build": {"-f", "-t", "--build-arg", "--target"},
    "docker push": set(),
    "kubectl apply": {"-k", "-f"},
    "kubectl create namespace": set(),
    "kubectl create secret generic": {"-n", "--from-literal"},
    "kubectl get rayjob": {"-n", "--watch"},
    "kubectl logs": {"-n", "-f"},
    "kubectl kustomize": {"--output"},
    "kubectl port-forward": {"-n"},
    "sed": {"-i"},
    "grep": {"-rl"},
}
PROGRAMS = {name.split()[0] for name in OPTIONS}
POOLS, MARKETS = {"head", "cpu", "judge", "trainer"}, {"spot", "on-demand"}


def check_outside(words: Sequence[str]) -> None:
    """Raises AssertionError where a command of another program has an option that it lacks, or labels that no pod selects."""
    plain = [word for word in words if not word.startswith("-")]
    if words[0] == "kubectl" and "-n" in words:  # the namespace may stand before the verb
        plain.remove(words[words.index("-n") + 1])
    (known,) = [name for name in OPTIONS if plain[: len(name.split())] == name.split()] or [""]
    assert known, f"{shlex.join(words[:4])}: no such command is known"
    options = {word.partition("=")[0] for word in words if word.startswith("-") and not re.fullmatch(r"-\d+", word)}
    assert options <= OPTIONS[known], options - OPTIONS[known]
    text = " ".join(words)
    assert set(re.findall(r"trace-ray/pool=([\w|-]+)", text)) <= POOLS
    assert set(re.findall(r"trace-ray/market=([\w-]+)", text)) <= MARKETS
