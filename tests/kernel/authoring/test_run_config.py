from __future__ import annotations

import itertools
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from kernel import (
    AIConfig,
    ConcurrencyConfig,
    DebugConfig,
    FeatureFlagsConfig,
    InvalidConfig,
    PayloadRefused,
    StageContext,
    StandardConfig,
    WorkflowBuilder,
    stage,
)


class Http(BaseModel):
    timeout_s: float = 5
    retries: int = Field(default=3, alias="max-retries")


class Local(BaseModel):
    kind: str = "local"


class FetchConfig(AIConfig):
    model_config = ConfigDict(extra="forbid")
    http: Http = Http(timeout_s=9)
    headers: dict[str, dict[str, str]] = Field(default={"default": {"accept": "*/*"}})
    hosts: list[str] = Field(default=["a", "b"])
    target: Local | Http = Local()
    pages: int | None = Field(default=None, alias="page-limit", ge=1)


class KeyConfig(BaseModel):
    key: str
    depth: int = 1


@stage("fetch")
async def fetch(ctx: StageContext[None, FetchConfig]) -> None: ...


@stage("open")
async def unlock(ctx: StageContext[None, KeyConfig]) -> None: ...


@stage("plain")
async def plain(ctx: StageContext[None]) -> None: ...


fetching = WorkflowBuilder("fetching").pipe(fetch).pipe(plain).build()
unlocking = WorkflowBuilder("unlocking").pipe(fetch).pipe(unlock).pipe(plain).build()


def merged(given: Any) -> dict[str, Any]:
    return fetching.merge_config(given)["fetch"]


def test_the_defaults_of_all_stages_are_known() -> None:
    defaults = unlocking.default_config()

    assert defaults["open"] == {"depth": 1}
    assert defaults["plain"] == {}
    assert defaults["fetch"]["http"] == {"timeout_s": 9.0, "retries": 3}
    assert defaults["fetch"]["model"] == "gemini-2.5-flash"


def test_a_run_without_configuration_gets_the_defaults_and_cannot_change_those_of_others() -> None:
    first = fetching.merge_config(None)
    first["fetch"]["edge"] = 1
    first["other"] = {}

    assert fetching.merge_config({}) == {"fetch": fetching.default_config()["fetch"]}


@pytest.mark.parametrize("key", [fetch, "fetch"])
def test_what_is_given_wins_over_the_defaults(key) -> None:
    assert merged({key: {"temperature": 0.1}}) == fetching.default_config()["fetch"] | {"temperature": 0.1}


def test_nested_models_and_mappings_are_merged_deeply() -> None:
    config = merged({"fetch": {"http": {"retries": 1}, "headers": {"default": {"host": "a"}, "other": {}}}})

    assert config["http"] == {"timeout_s": 9.0, "retries": 1}
    assert config["headers"] == {"default": {"accept": "*/*", "host": "a"}, "other": {}}


def test_lists_and_alternatives_of_models_are_replaced() -> None:
    config = merged({"fetch": {"hosts": ["c"], "target": {"timeout_s": 1.0}}})

    assert config["hosts"] == ["c"]
    assert config["target"] == {"timeout_s": 1.0, "retries": 3}


def test_aliases_are_understood_at_every_depth() -> None:
    config = merged({"fetch": {"page-limit": 7, "http": {"max-retries": 1}}})

    assert (config["pages"], config["http"]["retries"]) == (7, 1)


def test_a_model_of_the_stage_is_taken_as_it_is() -> None:
    assert merged({fetch: FetchConfig(http=Http(timeout_s=1))})["http"] == {"timeout_s": 1.0, "retries": 3}


def test_a_model_of_a_preset_sets_what_was_set_in_it() -> None:
    config = merged({fetch: AIConfig(temperature=1.5)})

    assert (config["temperature"], config["http"]["timeout_s"]) == (1.5, 9.0)


def test_a_nested_model_replaces_the_default() -> None:
    assert merged({fetch: {"http": Http()}})["http"] == {"timeout_s": 5.0, "retries": 3}


def test_all_mistakes_of_all_stages_are_told_at_once() -> None:
    given = {"fetch": {"temperature": 3, "http": {"timeout_s": "slow"}, "nope": 1}, "plain": {"a": 1}, "typo": {}}

    with pytest.raises(InvalidConfig) as refused:
        unlocking.merge_config(given)

    found = {(finding["loc"], finding["type"]) for finding in refused.value.errors}
    assert found == {
        (("fetch", "temperature"), "less_than_equal"),
        (("fetch", "http", "timeout_s"), "float_parsing"),
        (("fetch", "nope"), "extra_forbidden"),
        (("open", "key"), "missing"),
        (("plain",), "no_config"),
        (("typo",), "unknown_stage"),
    }
    assert "its stages: fetch, open, plain" in str(refused.value)


def test_a_required_value_that_is_not_given_is_refused_when_the_run_is_created() -> None:
    with pytest.raises(InvalidConfig, match=r'Config of workflow "unlocking" is not valid: open\.key: Field required'):
        unlocking.merge_config(None)

    assert unlocking.merge_config({"open": {"key": "k"}})["open"] == {"key": "k", "depth": 1}


@pytest.mark.parametrize("values", [None, 3, "x", []])
def test_the_configuration_of_a_stage_is_a_mapping(values) -> None:
    with pytest.raises(InvalidConfig, match="fetch: must be a model or a mapping"):
        fetching.merge_config({"fetch": values})


def test_a_stage_is_configured_once() -> None:
    with pytest.raises(InvalidConfig, match="fetch: is given twice"):
        fetching.merge_config({fetch: {}, "fetch": {}})


def test_an_empty_configuration_of_a_stage_without_one_is_no_mistake() -> None:
    assert fetching.merge_config({"plain": {}}) == fetching.merge_config(None)


def test_a_configuration_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(PayloadRefused):
        fetching.merge_config({"fetch": {"hosts": ["a\0"]}})


def test_the_stored_configuration_becomes_the_model_again() -> None:
    stored = fetching.merge_config({"fetch": {"pages": 2}})

    config = fetching.stage_config("fetch", stored)

    assert config == FetchConfig.model_validate({"page-limit": 2})
    assert config is not fetching.stage_config("fetch", stored)
    assert fetching.stage_config("fetch", {}) == FetchConfig()


def test_a_stored_configuration_that_no_longer_fits_is_refused() -> None:
    with pytest.raises(InvalidConfig, match='Config of stage "fetch" is not valid'):
        fetching.stage_config("fetch", {"fetch": {"temperature": "hot"}})


def test_a_configuration_can_be_checked_without_a_run() -> None:
    checked = unlocking.validate_config({"open": {"key": "k"}})

    assert checked == {"fetch": FetchConfig(), "open": KeyConfig(key="k")}


def test_a_default_that_is_made_is_made_for_every_run() -> None:
    numbers = itertools.count(1)

    class Seeded(BaseModel):
        seed: int = Field(default_factory=lambda: next(numbers))

    seeded = WorkflowBuilder("seeded").pipe(stage("s", input=type(None), output=int, config=Seeded)(lambda _ctx: 1))
    workflow = seeded.build()

    assert workflow.merge_config(None) != workflow.merge_config(None)


@pytest.mark.parametrize(
    "preset, defaults",
    [
        (AIConfig, {"model": "gemini-2.5-flash", "temperature": 0.7, "max_tokens": None}),
        (ConcurrencyConfig, {"concurrency": 5, "delay_ms": 0, "max_retries": 3}),
        (FeatureFlagsConfig, {"feature_flags": {}}),
        (DebugConfig, {"verbose": False, "dry_run": False}),
    ],
)
def test_presets_have_their_documented_defaults(preset, defaults) -> None:
    assert preset().model_dump() == defaults


def test_presets_are_mixins_whose_defaults_can_be_replaced() -> None:
    class Mine(StandardConfig, DebugConfig):
        temperature: Annotated[float, Field(ge=0, le=1)] = 0.0

    assert set(Mine.model_fields) == {
        *AIConfig.model_fields,
        *ConcurrencyConfig.model_fields,
        *FeatureFlagsConfig.model_fields,
        *DebugConfig.model_fields,
    }
    assert Mine().temperature == 0.0


@pytest.mark.parametrize(
    "preset, values",
    [
        (AIConfig, {"temperature": 2.1}),
        (AIConfig, {"max_tokens": 0}),
        (AIConfig, {"model": ""}),
        (ConcurrencyConfig, {"concurrency": 0}),
        (ConcurrencyConfig, {"delay_ms": -1}),
        (ConcurrencyConfig, {"max_retries": -1}),
    ],
)
def test_presets_enforce_their_bounds(preset, values) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        preset(**values)
