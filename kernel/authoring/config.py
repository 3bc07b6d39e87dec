"""Ready-made parts of a stage's configuration, to be mixed in: `class ExtractConfig(AIConfig, DebugConfig): ...`.

They only agree on names, defaults and bounds, so that tools can rely on them; nothing in the engine reads them.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["AIConfig", "ConcurrencyConfig", "DebugConfig", "FeatureFlagsConfig", "StandardConfig"]


class AIConfig(BaseModel):
    """Which model to ask, and how freely it may answer; `max_tokens` None leaves the limit to the provider."""

    model: str = Field(default="gemini-2.5-flash", min_length=1)
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)


class ConcurrencyConfig(BaseModel):
    """How many things a stage does at once, the pause between them in milliseconds, and how often it repeats one."""

    concurrency: int = Field(default=5, gt=0)
    delay_ms: int = Field(default=0, ge=0)
    max_retries: int = Field(default=3, ge=0)


class FeatureFlagsConfig(BaseModel):
    """Switches by name; a switch that is not there is off."""

    feature_flags: dict[str, bool] = Field(default_factory=dict)


class DebugConfig(BaseModel):
    """Say more, or change nothing outside."""

    verbose: bool = False
    dry_run: bool = False


class StandardConfig(AIConfig, ConcurrencyConfig, FeatureFlagsConfig):
    """The usual combination: a model, concurrency and feature flags."""
