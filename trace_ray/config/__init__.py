"""The one door to every setting: a tree of frozen dataclasses, each part in a file of its own."""

from trace_ray.config.cluster import RayConfig
from trace_ray.config.corpus import COLUMN_NAMES, FORMAT_NAMES, CorpusConfig, NoiseConfig
from trace_ray.config.evaluate import AttackConfig, CapabilityConfig, EvaluateConfig
from trace_ray.config.fields import settings
from trace_ray.config.impact import ImpactConfig
from trace_ray.config.judges import EndpointConfig, ExampleConfig, JudgeConfig, PromptConfig, judge_name
from trace_ray.config.model import LoraSettings, ModelConfig
from trace_ray.config.objective import ObjectiveConfig, TermConfig
from trace_ray.config.realign import RealignConfig, SelectConfig
from trace_ray.config.report import PlanConfig, ReportConfig
from trace_ray.config.rounds import RoundsConfig
from trace_ray.config.tree import Config, TriageConfig
from trace_ray.storage.settings import StorageConfig

__all__ = [
    "COLUMN_NAMES",
    "FORMAT_NAMES",
    "AttackConfig",
    "CapabilityConfig",
    "Config",
    "CorpusConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "ExampleConfig",
    "ImpactConfig",
    "JudgeConfig",
    "LoraSettings",
    "ModelConfig",
    "NoiseConfig",
    "ObjectiveConfig",
    "PlanConfig",
    "PromptConfig",
    "RayConfig",
    "RealignConfig",
    "ReportConfig",
    "RoundsConfig",
    "SelectConfig",
    "StorageConfig",
    "TermConfig",
    "TriageConfig",
    "judge_name",
    "settings",
]
