from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import (
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    model_validator,
)

from kernel import (
    AIConfig,
    ConcurrencyConfig,
    DebugConfig,
    FeatureFlagsConfig,
    InvalidCommand,
    InvalidConfig,
    InvalidStage,
    PayloadRefused,
    StageContext,
    StandardConfig,
    Workflow,
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


def test_a_configuration_that_is_no_mapping_is_refused() -> None:
    given: Any = [1]
    with pytest.raises(InvalidCommand, match="a mapping of stages to values, not list") as refused:
        unlocking.validate_config(given)
    assert refused.value.field == "config"


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


class Square(BaseModel):
    side: int = 2
    area: int = Field(default_factory=lambda known: known["side"] ** 2)


class Tile(BaseModel):
    side: int
    area: int = Field(default_factory=lambda known: known["side"] ** 2)


def with_config(config: type[BaseModel]) -> Any:
    made = stage("s", input=type(None), output=int, config=config)(lambda _ctx: 1)
    return WorkflowBuilder("configured").pipe(made).build()


def test_a_default_that_is_computed_follows_the_fields_it_is_computed_from() -> None:
    workflow = with_config(Square)

    assert workflow.default_config() == {"s": {"side": 2, "area": 4}}
    assert workflow.merge_config(None) == {"s": {"side": 2, "area": 4}}
    assert workflow.merge_config({"s": {"side": 3}}) == {"s": {"side": 3, "area": 9}}
    assert workflow.merge_config({"s": {"area": 5}}) == {"s": {"side": 2, "area": 5}}


def test_a_default_that_is_computed_from_a_required_field_waits_for_it() -> None:
    workflow = with_config(Tile)

    assert workflow.default_config() == {"s": {}}
    assert workflow.merge_config({"s": {"side": 3}}) == {"s": {"side": 3, "area": 9}}
    with pytest.raises(InvalidConfig) as refused:
        workflow.merge_config(None)
    assert [finding["loc"] for finding in refused.value.errors] == [("s", "side")]


def test_a_default_inside_of_defaults_is_computed_anew_when_what_it_follows_is_changed() -> None:
    class Floor(BaseModel):
        tile: Square = Square(side=5)
        fixed: Square = Square(side=5, area=1)
        named: dict[str, Square] = Field(default={"hall": Square()})

    workflow = with_config(Floor)
    changed = workflow.merge_config({"s": {"tile": {"side": 6}, "fixed": {"side": 6}, "named": {"hall": {"side": 7}}}})

    assert workflow.default_config()["s"]["tile"] == {"side": 5, "area": 25}
    assert changed["s"] == {
        "tile": {"side": 6, "area": 36},
        "fixed": {"side": 6, "area": 1},
        "named": {"hall": {"side": 7, "area": 49}},
    }


def test_what_a_model_computes_itself_is_not_stored() -> None:
    class Sum(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: int = 1

        @computed_field
        def double(self) -> int:
            return self.a * 2

    workflow = with_config(Sum)
    stored = workflow.merge_config({"s": {"a": 4}})

    assert stored == {"s": {"a": 4}}
    assert workflow.stage_config("s", stored).double == 8


def test_a_strict_configuration_is_refused_for_what_was_given_alone() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        pause: timedelta = timedelta(seconds=5)
        n: int = 1

    workflow = with_config(Strict)

    assert workflow.merge_config({"s": {"n": 2}}) == {"s": {"pause": "PT5S", "n": 2}}
    with pytest.raises(InvalidConfig) as refused:
        workflow.merge_config({"s": {"n": "2"}})
    assert [finding["loc"] for finding in refused.value.errors] == [("s", "n")]


class Excluded(BaseModel):
    a: int = Field(default=1, exclude=True)


class Rooted(RootModel[dict[str, int]]):
    pass


class Binary(BaseModel):
    data: bytes = b"\xff"


class Handle(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    required: int
    lock: Any = object()


class Secretive(BaseModel):
    keys: list[SecretStr] = []


@pytest.mark.parametrize(
    "config, said",
    [
        (Excluded, "exclude=True, so what a caller sets there would be lost"),
        (Rooted, "RootModel"),
        (Binary, "one has no JSON form"),
        (Handle, "one has no JSON form"),
        (Secretive, "a secret, which would be stored as stars"),
    ],
)
def test_a_configuration_that_would_not_come_back_as_it_was_is_refused_when_the_workflow_is_built(config, said) -> None:
    with pytest.raises(InvalidStage, match=f'Stage "s".*{said}'):
        with_config(config)


def test_a_secret_whose_model_says_how_it_is_written_is_the_users_choice() -> None:
    class Open(BaseModel):
        key: SecretStr = SecretStr("k")

        @field_serializer("key")
        def shown(self, key: SecretStr) -> str:
            return key.get_secret_value()

    workflow = with_config(Open)

    assert workflow.stage_config("s", workflow.merge_config({"s": {"key": "x"}})).key == SecretStr("x")


def test_presets_can_be_chained_in_any_order_and_combined_with_own_fields() -> None:
    class One(DebugConfig, AIConfig):
        chunk: int = 3

    class Two(AIConfig, DebugConfig):
        chunk: int = 3

    assert (
        with_config(One).merge_config(None)["s"]
        == with_config(Two).merge_config(None)["s"]
        == {
            "model": "gemini-2.5-flash",
            "temperature": 0.7,
            "max_tokens": None,
            "verbose": False,
            "dry_run": False,
            "chunk": 3,
        }
    )


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


class Window(BaseModel):
    width: int = 10


class CutConfig(BaseModel):
    window: Window = Window()
    size: int = 1


def cutting(model: type[BaseModel]) -> Workflow[Any, Any]:
    @stage("cut", config=model)
    async def cut(ctx: StageContext[None, Any]) -> None: ...

    return WorkflowBuilder("cutting").pipe(cut).build()


@pytest.mark.parametrize(
    "given, loc, fields",
    [
        ({"window": {}, "sise": 4}, ("cut", "sise"), "window, size"),
        ({"window": {"widht": 4}}, ("cut", "window", "widht"), "width"),
    ],
)
def test_a_field_that_the_model_does_not_have_is_refused_and_the_known_ones_are_named(
    given: dict[str, Any], loc: tuple[str, ...], fields: str
) -> None:
    with pytest.raises(InvalidConfig) as refused:
        cutting(CutConfig).merge_config({"cut": given})

    [finding] = refused.value.errors
    assert (finding["loc"], finding["type"]) == (loc, "unknown_field")
    assert f"its fields: {fields}" in str(refused.value)


@pytest.mark.parametrize("extra", ["ignore", "allow"])
def test_a_model_may_say_that_it_takes_other_fields(extra: Any) -> None:
    class Open(CutConfig):
        model_config = ConfigDict(extra=extra)

    assert cutting(Open).merge_config({"cut": {"sise": 4}})["cut"]["size"] == 1


def test_a_model_may_take_fields_under_names_that_only_its_validators_know() -> None:
    class Renamed(CutConfig):
        deep: int = Field(default=0, validation_alias=AliasPath("levels", 0))

        @model_validator(mode="before")
        @classmethod
        def rename(cls, given: dict[str, Any]) -> dict[str, Any]:
            return {"size": given.pop("length"), **given} if "length" in given else given

    class Aliased(CutConfig):
        deep: int = Field(default=0, validation_alias=AliasPath("levels", 0))

    assert "cut" in cutting(Renamed).merge_config({"cut": {"length": 4}})
    assert "cut" in cutting(Aliased).merge_config({"cut": {"levels": [4]}})
