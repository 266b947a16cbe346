"""The operator's rules on a RayCluster's spec, a RayJob's own cluster included."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

Yaml = dict[str, Any]
V2_ENV = "RAY_enable_autoscaler_v2"
FT_ANNOTATION, STORAGE_ANNOTATION = "ray.io/ft-enabled", "ray.io/external-storage-namespace"
TLS_ENV = {"RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"}
TLS_VOLUME, TLS_PATH = "ray-tls", "/etc/ray/tls"
GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
}


def cluster_refusals(spec: Yaml, notes: Mapping[str, str], gates: frozenset[str]) -> Iterator[str]:
    """Yields what is wrong with a RayCluster's spec."""
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs") or []
    if not containers(head):
        yield "headGroupSpec should have at least one container"
        return
    if not all(containers(group) for group in workers):
        yield "workerGroupSpec should have at least one container"
        return
    options, scales = spec.get("autoscalerOptions") or {}, bool(spec.get("enableInTreeAutoscaling"))
    second = options.get("version") == "v2" or _environment(head).get(V2_ENV) in ("1", "true")
    yield from _group("Head", head)
    for group in workers:
        yield from _group(group["groupName"], group)
        yield from _replicas(group, scales=scales)
        yield from _second_only(group, spec, second=second)
    yield from _fault_tolerance(spec, notes)
    yield from _suspended(workers, scales=scales)
    yield from _autoscaler(spec, options, scales=scales)
    yield from _token(spec)
    for field, gate in GATED.items():
        if spec.get(field) is not None and gate not in gates:
            yield f"spec.{field} requires the {gate} feature gate to be enabled"
    if spec.get("historyServerOptions") is not None and "RayClusterHistoryServer" not in gates:
        yield "RayClusterHistoryServer feature gate is not enabled"
    if (spec.get("tlsOptions") or {}).get("enabled"):
        yield from _own_tls("head Pod", containers(head)[0])
        for group in workers:
            yield from _own_tls(f'worker group "{group["groupName"]}"', containers(group)[0])
        yield from _own_tls("autoscalerOptions", options)


def _own_tls(where: str, container: Yaml) -> Iterator[str]:
    """What the operator brings to every container itself, once it makes the certificates."""
    for variable in sorted(TLS_ENV & set(_variables(container))):
        place = f"{where}.env" if where == "autoscalerOptions" else where
        yield f"cannot set {variable} environment variable in {place} when tlsOptions is set"
    for mount in container.get("volumeMounts") or []:
        place = f"{where}.volumeMounts" if where == "autoscalerOptions" else where
        if mount["name"] == TLS_VOLUME:
            yield f'cannot use volume mount named "{TLS_VOLUME}" in {place} when tlsOptions is set'
        if mount["mountPath"] == TLS_PATH:
            yield f'cannot use volume mount at path "{TLS_PATH}" in {place} when tlsOptions is set'


def _autoscaler(spec: Yaml, options: Yaml, *, scales: bool) -> Iterator[str]:
    head = spec["headGroupSpec"]
    given = _environment(head)
    if not scales and given.get(V2_ENV) in ("1", "true"):
        yield f"environment variable {V2_ENV} cannot be set to '{given[V2_ENV]}' when enableInTreeAutoscaling is false"
    if scales and options.get("version") is not None and V2_ENV in given:
        yield f"both .spec.autoscalerOptions.version and head Pod env var {V2_ENV} are set, please only use the former"
    if scales and options.get("version") == "v2":
        where = [("head Pod", head)]
        where += [
            (f"worker group {worker_group['groupName']}", worker_group)
            for worker_group in spec.get("workerGroupSpecs") or []
        ]
        for name, group in where:
            if restarts(group):
                yield f"restartPolicy for {name} should be Never or unset when using autoscaler V2"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield f"autoscalerOptions.idleTimeoutSeconds must be non-negative, got {options['idleTimeoutSeconds']}"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in _variables(options):
        yield "autoscalerOptions.env must not contain KUBERAY_GEN_AUTOSCALER_START_CMD"


def _group(name: str, group: Yaml) -> Iterator[str]:
    started, labels = group.get("rayStartParams") or {}, group.get("labels") or {}
    if group.get("resources") and any(started.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")):
        yield f"resource fields should not be set in both rayStartParams and Resources for {name} group"
    if "labels" in started:
        yield f"rayStartParams['labels'] is not supported for {name} group; please use the top-level Labels field instead"
    word = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
    for key, value in labels.items():
        prefix, _, last = key.rpartition("/")
        if not re.fullmatch(word, last) or (prefix and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", prefix)):
            yield f"invalid label key for {name} group: '{key}'"
        if value and not re.fullmatch(word, value):
            yield f"invalid label value for key '{key}' in {name} group: '{value}'"


def _replicas(group: Yaml, *, scales: bool) -> Iterator[str]:
    name, least, most = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
    if not scales and (least is None or most is None):
        yield f"worker group {name} must set both minReplicas and maxReplicas when autoscaling is disabled"
    for field, value in (("minReplicas", least), ("maxReplicas", most)):
        if value is not None and value < 0:
            yield f"worker group {name} has negative {field} {value}"
    if least is not None and most is not None and least > most:
        yield f"worker group {name} has minReplicas {least} greater than maxReplicas {most}"


def _second_only(group: Yaml, spec: Yaml, *, second: bool) -> Iterator[str]:
    name, idle, priority = group["groupName"], group.get("idleTimeoutSeconds"), group.get("priority")
    if idle is not None and idle < 0:
        yield f"worker group {name}: idleTimeoutSeconds must be non-negative, got {idle}"
    if idle is not None and not second:
        yield f"worker group {name}: idleTimeoutSeconds is set, but autoscaler v2 is not enabled"
    if not priority:
        return
    least = _older(spec.get("rayVersion"), "2.56.0")
    if least is not None:
        yield f"worker group {name}: priority is set, but {least}"
    if not second:
        yield f"worker group {name}: priority is set to {priority}, but autoscaler v2 is not enabled"


def _fault_tolerance(spec: Yaml, notes: Mapping[str, str]) -> Iterator[str]:
    head, options = spec["headGroupSpec"], spec.get("gcsFaultToleranceOptions")
    given, started = _environment(head), head.get("rayStartParams") or {}
    on, enabled = options is not None, "when GcsFaultToleranceOptions is enabled"
    asked = on or notes.get(FT_ANNOTATION, "").lower() == "true"
    redis = (options or {}).get("backend", "redis") == "redis"
    rules = [
        (
            bool(notes.get(FT_ANNOTATION)) and on,
            f"{FT_ANNOTATION} annotation and GcsFaultToleranceOptions are both set",
        ),
        (
            not asked and "RAY_REDIS_ADDRESS" in given,
            "RAY_REDIS_ADDRESS is set which implicitly enables GCS fault tolerance",
        ),
        (
            bool(started.get("redis-username")) or "REDIS_USERNAME" in given,
            "cannot set redis username in rayStartParams or environment variables",
        ),
        (on and bool(started.get("redis-password")), f"cannot set `redis-password` in rayStartParams {enabled}"),
        (on and "REDIS_PASSWORD" in given, f"cannot set `REDIS_PASSWORD` env var in head Pod {enabled}"),
        (on and "RAY_REDIS_ADDRESS" in given, f"cannot set `RAY_REDIS_ADDRESS` env var in head Pod {enabled}"),
        (on and bool(notes.get(STORAGE_ANNOTATION)), f"cannot set `{STORAGE_ANNOTATION}` annotation {enabled}"),
        (
            not redis,
            "the embedded RocksDB GCS fault tolerance backend requires the GCSFaultToleranceEmbeddedStorage feature gate",
        ),
        (
            redis and (options or {}).get("storage") is not None,
            "cannot set GcsFaultToleranceOptions.Storage when backend is 'redis'",
        ),
    ]
    yield from (said for wrong, said in rules if wrong)


def _suspended(workers: list[Yaml], *, scales: bool) -> Iterator[str]:
    for group in workers:
        if group.get("suspend"):
            name = group["groupName"]
            yield f"worker group {name} can be suspended only when the RayJobDeletionPolicy feature gate is enabled"
            if scales:
                yield f"worker group {name} cannot be suspended with Autoscaler enabled"


def _token(spec: Yaml) -> Iterator[str]:
    options = spec.get("authOptions") or {}
    own = options.get("enableK8sTokenAuth")
    if options.get("mode") != "token":
        if own:
            yield "authOptions.enableK8sTokenAuth is enabled but authOptions.mode not set to 'token'"
        return
    least = _older(spec.get("rayVersion"), "2.52.0")
    if least is not None:
        yield f"authOptions.mode is 'token' but {least}"
    if own and _older(spec.get("rayVersion"), "2.55.0"):
        yield f"authOptions.enableK8sTokenAuth is enabled but minimum Ray version is 2.55.0, got {spec.get('rayVersion')}"
    if own and options.get("secretName"):
        yield "authOptions.enableK8sTokenAuth is enabled and authOptions.secretName is also set"


def _older(version: str | None, least: str) -> str | None:
    """Returns the operator's words where this Ray is none, or older than ``least``."""
    if not version:
        return f"RayVersion was not specified. Ray version {least} or later is required"
    try:
        return f"minimum Ray version is {least}, got {version}" if Version(version) < Version(least) else None
    except InvalidVersion:
        return f"RayVersion format is invalid: {version}"


def containers(group: Yaml) -> list[Yaml]:
    return group["template"]["spec"].get("containers") or []


def restarts(group: Yaml) -> bool:
    return group["template"]["spec"].get("restartPolicy", "Never") not in ("", "Never")


def _environment(group: Yaml) -> dict[str, str]:
    return _variables(containers(group)[0])


def _variables(container: Yaml) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container.get("env") or []}
