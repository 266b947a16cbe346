"""How a run's files are reached; part of the configuration's tree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How s3:// is reached; credentials come from the default chain only (role, profile, environment), never from here.

    Args:
        endpoint: of another S3 than AWS; empty = AWS_ENDPOINT_URL or AWS.
        anonymous: sign nothing: public buckets.
        kms_key: id or ARN of the key in AWS KMS that everything written is encrypted with; empty = the bucket's default.
        max_attempts: tries of one request, with growing pauses, where S3 throttles, fails or is not reached.
        cache: this node's folder for copies of what is in S3; empty = TRACE_RAY_CACHE or ~/.cache/trace-ray.
    """

    endpoint: str = ""
    region: str = ""
    anonymous: bool = False
    kms_key: str = ""
    max_attempts: int = 10
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    cache: str = ""
