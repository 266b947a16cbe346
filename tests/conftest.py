"""Fixtures that several areas' tests share."""

from __future__ import annotations

from tests.support.s3 import s3, s3_server

__all__ = ["s3", "s3_server"]
