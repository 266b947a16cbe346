"""The operator takes our manifests, and each of its rules has one that breaks it, refused in the operator's words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.clusters.documents import CLUSTERS, RAY_KINDS, base, cluster_spec, validator_of
from tests.clusters.operator_rules import refusals

RAY = [(folder, document) for folder, document in base() if document["kind"] in RAY_KINDS]
JOB = next(document for folder, document in RAY if folder == "gpu-job")
Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(("folder", "document"), RAY, ids=[folder for folder, _ in RAY])
def test_the_operator_accepts_it(folder: str, document: dict[str, Any]) -> None:
    assert refusals(document) == []


@pytest.mark.parametrize(("folder", "document"), RAY, ids=[folder for folder, _ in RAY])
def test_its_crd_accepts_it(folder: str, document: dict[str, Any]) -> None:
    found = sorted(validator_of(document["kind"]).iter_errors(document), key=str)
    assert not found, [f"{error.json_path}: {error.message[:200]}" for error in found]


def test_the_crd_check_can_fail() -> None:
    document = copy.deepcopy(JOB)
    cluster_spec(document)["workerGroupSpecs"][0]["maxReplica"] = 3
    cluster_spec(document)["authOptions"]["mode"] = "tokens"
    assert len(list(validator_of("RayJob").iter_errors(document))) == 2


def of(document: dict[str, Any]) -> dict[str, Any]:
    return cluster_spec(document)


def head(document: dict[str, Any]) -> dict[str, Any]:
    return of(document)["headGroupSpec"]  # type: ignore[no-any-return]


def variable(name: str, value: str = "1") -> Change:
    return lambda d: head(d)["template"]["spec"]["containers"][0]["env"].append({"name": name, "value": value})


def worker(**fields: Any) -> Change:
    return lambda d: of(d)["workerGroupSpecs"][1].update(fields)


def spec(**fields: Any) -> Change:
    return lambda d: d["spec"].update(fields)


def cluster(**fields: Any) -> Change:
    return lambda d: of(d).update(fields)


def both(*changes: Change) -> Change:
    return lambda d: [change(d) for change in changes]


def pod(**fields: Any) -> Change:
    return lambda d: head(d)["template"]["spec"].update(fields)


def rule(policy: str, seconds: int, **state: str) -> dict[str, Any]:
    return {"policy": policy, "condition": {"ttlSeconds": seconds, **state}}


LASTS = spec(shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0)
BROKEN: list[tuple[Change, str]] = [
    (variable("RAY_enable_autoscaler_v2"), "both .spec.autoscalerOptions.version and head Pod env var"),
    (
        both(cluster(enableInTreeAutoscaling=False), variable("RAY_enable_autoscaler_v2")),
        "RAY_enable_autoscaler_v2 cannot be set to '1' when enableInTreeAutoscaling is false",
    ),
    (worker(minReplicas=5, maxReplicas=4), "judge-spot has minReplicas 5 greater than maxReplicas 4"),
    (worker(minReplicas=-1), "worker group judge-spot has negative minReplicas -1"),
    (
        both(cluster(enableInTreeAutoscaling=False), lambda d: of(d)["workerGroupSpecs"][1].pop("minReplicas")),
        "judge-spot must set both minReplicas and maxReplicas when autoscaling is disabled",
    ),
    (cluster(rayVersion="2.54.0"), "worker group judge-spot: priority is set, but minimum Ray version is 2.56.0"),
    (cluster(rayVersion="2.51.0"), "authOptions.mode is 'token' but minimum Ray version is 2.52.0, got 2.51.0"),
    (cluster(rayVersion=""), "authOptions.mode is 'token' but RayVersion was not specified"),
    (cluster(rayVersion="nightly"), "RayVersion format is invalid: nightly"),
    (
        lambda d: of(d)["autoscalerOptions"].pop("version"),
        "judge-spot: priority is set to 10, but autoscaler v2 is not",
    ),
    (
        both(worker(idleTimeoutSeconds=9), lambda d: of(d)["autoscalerOptions"].pop("version")),
        "judge-spot: idleTimeoutSeconds is set, but autoscaler v2 is not enabled",
    ),
    (worker(resources={"CPU": "7"}), "should not be set in both rayStartParams and Resources for judge-spot group"),
    (worker(rayStartParams={"labels": "a=b"}), "rayStartParams['labels'] is not supported for judge-spot group"),
    (worker(labels={"trace-ray/pool": "a judge"}), "invalid label value for key 'trace-ray/pool' in judge-spot group"),
    (worker(labels={"trace ray": "judge"}), "invalid label key for judge-spot group: 'trace ray'"),
    (worker(suspend=True), "worker group judge-spot cannot be suspended with Autoscaler enabled"),
    (worker(template={"spec": {"containers": []}}), "workerGroupSpec should have at least one container"),
    (pod(containers=[]), "headGroupSpec should have at least one container"),
    (pod(restartPolicy="Always"), "restartPolicy for head Pod should be Never or unset when using autoscaler V2"),
    (lambda d: of(d)["autoscalerOptions"].update(idleTimeoutSeconds=-1), "must be non-negative, got -1"),
    (
        lambda d: of(d)["autoscalerOptions"]["env"].append({"name": "KUBERAY_GEN_AUTOSCALER_START_CMD"}),
        "autoscalerOptions.env must not contain KUBERAY_GEN_AUTOSCALER_START_CMD",
    ),
    (variable("RAY_REDIS_ADDRESS"), "RAY_REDIS_ADDRESS is set which implicitly enables GCS fault tolerance"),
    (variable("REDIS_USERNAME"), "cannot set redis username in rayStartParams or environment variables"),
    (
        both(cluster(gcsFaultToleranceOptions={"redisAddress": "redis:6379"}), variable("REDIS_PASSWORD")),
        "cannot set `REDIS_PASSWORD` env var in head Pod when GcsFaultToleranceOptions is enabled",
    ),
    (cluster(gcsFaultToleranceOptions={"backend": "rocksdb"}), "requires the GCSFaultToleranceEmbeddedStorage"),
    (cluster(tlsOptions={"enabled": True}), "spec.tlsOptions requires the RayClusterMTLS feature gate"),
    (cluster(historyServerOptions={}), "RayClusterHistoryServer feature gate is not enabled"),
    (cluster(networkPolicy={}), "spec.networkPolicy requires the RayClusterNetworkPolicy feature gate"),
    (
        cluster(authOptions={"mode": "token", "enableK8sTokenAuth": True}),
        "K8s token auth mode is currently not supported",
    ),
    (lambda d: d["metadata"].update(name="r" * 48), "RayJob name should be no more than 47 characters"),
    (lambda d: d["metadata"].update(name="8xh100"), "RayJob name should be a valid DNS1035 label"),
    (spec(shutdownAfterJobFinishes=False), "shutdownAfterJobFinishes set to false cannot have TTLSecondsAfterFinished"),
    (spec(ttlSecondsAfterFinished=-1), "TTLSecondsAfterFinished must be a non-negative integer"),
    (both(LASTS, spec(suspend=True)), "shutdownAfterJobFinishes set to false is not allowed to be suspended"),
    (spec(backoffLimit=-1), "backoffLimit must be a positive integer"),
    (spec(activeDeadlineSeconds=0), "activeDeadlineSeconds must be a positive integer"),
    (spec(submissionMode="InteractiveMode"), "BackoffLimit is incompatible with InteractiveMode"),
    (spec(submissionMode="SidecarMode"), "Currently, SidecarMode doesn't support SubmitterPodTemplate"),
    (spec(rayClusterSpec=None), "one of RayClusterSpec or ClusterSelector must be set"),
    (spec(rayClusterSpec=None, clusterSelector={"a": "b"}), "cluster name in ClusterSelector should not be empty"),
    (spec(clusterSelector={"ray.io/cluster": "x"}), "BackoffLimit is incompatible with ClusterSelector mode"),
    (
        cluster(upgradeStrategy={"type": "Recreate"}),
        "upgradeStrategy cannot be set when RayCluster is created by RayJob",
    ),
    (spec(runtimeEnvYAML="[a"), "failed to unmarshal RuntimeEnvYAML"),
    (spec(deletionStrategy={}), "RayJobDeletionPolicy feature gate must be enabled to use DeletionStrategy"),
]


@pytest.mark.parametrize(("change", "said"), BROKEN, ids=[said[:60] for _, said in BROKEN])
def test_a_manifest_that_breaks_a_rule_is_refused_in_the_operators_words(change: Change, said: str) -> None:
    document = copy.deepcopy(JOB)
    change(document)
    assert [refusal for refusal in refusals(document) if said in refusal], refusals(document)


GATED: list[tuple[dict[str, Any], str]] = [
    ({}, "requires either BOTH onSuccess and onFailure, OR the deletionRules field"),
    (
        {"onSuccess": {"policy": "DeleteSelf"}},
        "both DeletionStrategy.OnSuccess and DeletionStrategy.OnFailure must be set",
    ),
    (
        {"onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteWorkers"}},
        "DeletionStrategy=DeleteWorkers currently does not support RayCluster with autoscaling enabled",
    ),
    (
        {"deletionRules": [rule("DeleteWorkers", 5, jobStatus="FAILED")]},
        "'DeleteWorkers' not supported with autoscaling enabled",
    ),
    (
        {"deletionRules": [rule("DeleteSelf", 5)]},
        "deletionRules[0]: exactly one of JobStatus and JobDeploymentStatus must be set",
    ),
    (
        {"deletionRules": [rule("DeleteCluster", 9, jobStatus="FAILED"), rule("DeleteSelf", 5, jobStatus="FAILED")]},
        "'FAILED': DeleteSelf TTL (5) must be >= DeleteCluster TTL (9)",
    ),
    (
        {"deletionRules": [rule("DeleteSelf", 9, jobStatus="FAILED")] * 2},
        "deletionRules[1]: duplicate rule for DeletionPolicyType 'DeleteSelf'",
    ),
]


@pytest.mark.parametrize(("strategy", "said"), GATED, ids=[said[:60] for _, said in GATED])
def test_with_the_gate_its_deletion_strategy_is_read(strategy: dict[str, Any], said: str) -> None:
    document = copy.deepcopy(JOB)
    both(LASTS, spec(deletionStrategy=strategy))(document)
    gates = frozenset({"RayJobDeletionPolicy"})
    assert [refusal for refusal in refusals(document, gates) if said in refusal], refusals(document, gates)


def mount(**of_volume: str) -> Change:
    return lambda d: of(d)["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["volumeMounts"].append(of_volume)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (variable("RAY_USE_TLS"), "cannot set RAY_USE_TLS environment variable in head Pod when tlsOptions is set"),
        (
            lambda d: of(d)["autoscalerOptions"]["env"].append({"name": "RAY_TLS_CA_CERT", "value": "x"}),
            "cannot set RAY_TLS_CA_CERT environment variable in autoscalerOptions.env when tlsOptions is set",
        ),
        (
            mount(name="mine", mountPath="/etc/ray/tls"),
            'cannot use volume mount at path "/etc/ray/tls" in worker group "judge-spot" when tlsOptions is set',
        ),
        (
            mount(name="ray-tls", mountPath="/mine"),
            'cannot use volume mount named "ray-tls" in worker group "judge-spot" when tlsOptions is set',
        ),
    ],
)
def test_with_tls_of_the_operators_nobody_elses_is_taken(change: Change, said: str) -> None:
    document = copy.deepcopy(JOB)
    both(cluster(tlsOptions={"enabled": True}), change)(document)
    assert refusals(document, frozenset({"RayClusterMTLS"})) == [f"The RayJob spec is invalid: {said}"]


def test_a_good_deletion_strategy_passes_with_the_gate() -> None:
    document = copy.deepcopy(JOB)
    rules = [rule("DeleteCluster", 5, jobStatus="FAILED"), rule("DeleteSelf", 9, jobStatus="FAILED")]
    both(LASTS, spec(deletionStrategy={"deletionRules": rules}))(document)
    assert refusals(document, frozenset({"RayJobDeletionPolicy"})) == []


def test_the_version_that_is_asked_for_is_in_the_steps() -> None:
    """``priority`` is a field of KubeRay 1.7's."""
    assert "KubeRay 1.7" in (CLUSTERS / "README.md").read_text()
