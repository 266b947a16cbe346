"""The commands of other people's programs that the documents name, and the options of each: what a typing error would miss.

Taken from the programs' own references; none of them is here to be asked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def _options(text: str) -> set[str]:
    return set(text.split())


_EKS_ACCOUNT = "--cluster --namespace --name --role-name --attach-policy-arn --role-only --approve"
_NODE_POOL = """--cluster --location --machine-type --num-nodes --enable-autoscaling --min-nodes --max-nodes --disk-size
    --node-labels --node-taints --accelerator --spot --ephemeral-storage-local-ssd"""
_AKS = "--resource-group --name --node-count --network-plugin --network-policy --attach-acr --generate-ssh-keys"
_AKS_POOL = """--resource-group --cluster-name --name --node-count --node-vm-size --labels --node-taints --priority
    --eviction-policy --spot-max-price --enable-cluster-autoscaler --min-count --max-count --node-osdisk-size"""
_OUT = "--query --output"
OPTIONS: dict[str, set[str]] = {
    name: _options(options)
    for name, options in {
        "kind create cluster": "--config --name",
        "kind load docker-image": "--name",
        "kind delete cluster": "--name",
        "helm repo add": "",
        "helm install": "--version --values --wait --namespace --create-namespace --set",
        "aws cloudformation deploy": "--stack-name --template-file --capabilities --parameter-overrides",
        "aws cloudformation delete-stack": "--stack-name",
        "aws ec2 authorize-security-group-egress": "--group-id --ip-permissions",
        "aws ec2 authorize-security-group-ingress": "--group-id --protocol --port --cidr --ip-permissions",
        "aws ec2 create-security-group": f"--group-name --description --vpc-id {_OUT}",
        "aws ec2 delete-security-group": "--group-id",
        "aws ec2 describe-security-groups": f"--filters {_OUT}",
        "aws ec2 describe-subnets": f"--filters {_OUT}",
        "aws ecr create-repository": "--repository-name",
        "aws ecr delete-repository": "--repository-name --force",
        "aws ecr get-login-password": "",
        "aws efs create-file-system": f"--encrypted --throughput-mode {_OUT}",
        "aws efs create-mount-target": "--file-system-id --security-groups --subnet-id",
        "aws efs delete-file-system": "--file-system-id",
        "aws efs delete-mount-target": "--mount-target-id",
        "aws efs describe-mount-targets": f"--file-system-id {_OUT}",
        "aws eks describe-cluster": f"--name {_OUT}",
        "aws iam attach-role-policy": "--role-name --policy-arn",
        "aws iam create-policy": "--policy-name --policy-document",
        "aws iam delete-policy": "--policy-arn",
        "aws iam create-service-linked-role": "--aws-service-name",
        "aws s3 cp": "",
        "aws s3 rb": "--force",
        "aws s3 sync": "",
        "aws s3api create-bucket": "--bucket --region",
        "aws s3api put-bucket-encryption": "--bucket --server-side-encryption-configuration",
        "aws service-quotas request-service-quota-increase": "--service-code --quota-code --desired-value",
        "eksctl create cluster": "-f",
        "eksctl create iamserviceaccount": _EKS_ACCOUNT,
        "eksctl delete cluster": "--name",
        "gcloud artifacts repositories create": "--repository-format --location",
        "gcloud auth configure-docker": "",
        "gcloud container clusters create": "--location --num-nodes --addons --enable-dataplane-v2",
        "gcloud container clusters delete": "--location",
        "gcloud container clusters get-credentials": "--location",
        "gcloud container node-pools create": _NODE_POOL,
        "gcloud iam service-accounts create": "",
        "gcloud services enable": "",
        "gcloud storage buckets add-iam-policy-binding": "--member --role",
        "gcloud storage buckets create": "--location",
        "gcloud storage hmac create": "",
        "gcloud storage rm": "--recursive",
        "gcloud storage rsync": "--recursive",
        "az acr create": "--resource-group --name --sku",
        "az acr login": "--name",
        "az aks create": _AKS,
        "az aks get-credentials": "--resource-group --name",
        "az aks nodepool add": _AKS_POOL,
        "az group create": "--name --location",
        "hf download": "--local-dir",
        "docker build": "-f -t --build-arg --target",
        "docker buildx build": "-f -t --target --sbom --provenance --push",
        "docker login": "--username --password-stdin",
        "docker push": "",
        "kubectl apply": "-k -f",
        "kubectl create namespace": "",
        "kubectl create secret generic": "-n --from-literal",
        "kubectl delete": "-k",
        "kubectl delete rayjob": "-n",
        "kubectl get pod": "-n --selector --output",
        "kubectl get rayjob": "-n --watch",
        "kubectl logs": "-n -f",
        "kubectl kustomize": "--output",
        "kubectl port-forward": "-n",
        "curl": "-fsSLo",
        "grep": "-rl",
        "mkdir": "-p",
        "sed": "-i",
        "xargs": "-n",
    }.items()
}
PROGRAMS = {name.split()[0] for name in OPTIONS}
POOLS, MARKETS = {"head", "cpu", "judge", "trainer"}, {"spot", "on-demand"}


def check_outside(words: Sequence[str]) -> None:
    """Raises AssertionError where a command of another program has an option that it lacks, or labels that no pod selects."""
    if "|" in words:
        check_outside(words[: words.index("|")])
        check_outside(words[words.index("|") + 1 :])
        return
    if words[:2] == ["xargs", "-n"]:  # a number, and the command that it hands words to
        words = words[3:]
    plain = [word for word in words if not word.startswith("-")]
    if words[0] == "kubectl" and "-n" in words:  # the namespace may stand before the verb
        plain.remove(words[words.index("-n") + 1])
    known = max((name for name in OPTIONS if plain[: len(name.split())] == name.split()), key=len, default="")
    assert known, f"{shlex.join(words[:4])}: no such command is known"
    options = {word.partition("=")[0] for word in words if word.startswith("-") and not re.fullmatch(r"-\d+", word)}
    assert options <= OPTIONS[known], options - OPTIONS[known]
    text = " ".join(words)
    assert set(re.findall(r"trace-ray/pool=([\w|-]+)", text)) <= POOLS
    assert set(re.findall(r"trace-ray/market=([\w-]+)", text)) <= MARKETS
