"""Loading the user's app, and what is said when it cannot be loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from runtime.app import App
from runtime.commandline.application import AppNotLoaded, load_app
from runtime.config import Settings, load_settings

GOOD = "from runtime import App\nflows = App(workflows=[])\nnumber = 3\ndef make(): ...\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")


def refusal(app: str) -> str:
    with pytest.raises(AppNotLoaded) as refused:
        load_app(Settings(app=app))
    assert refused.value.field == "app"
    return str(refused.value)


def test_an_app_is_found_in_the_working_directory() -> None:
    write("shop_one.py", GOOD)

    assert isinstance(load_app(Settings(app="shop_one:flows")), App)


def test_an_app_is_found_in_a_package() -> None:
    write("shop_two/flows.py", GOOD)

    assert isinstance(load_app(Settings(app="shop_two.flows:flows")), App)


def test_the_working_directory_comes_last() -> None:
    write("shop_three.py", "import wave\n" + GOOD)
    write("wave.py", "raise RuntimeError('not the module of Python')")

    assert isinstance(load_app(Settings(app="shop_three:flows")), App)
    assert sys.path[-1] == str(Path.cwd())


def test_an_app_that_a_pyproject_names_is_found_where_that_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("shop_four.py", GOOD)
    write("pyproject.toml", '[tool.leasehold]\napp = "shop_four:flows"\n')
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")

    assert isinstance(load_app(load_settings(environ={})), App)


def test_without_an_app_the_three_ways_and_the_demo_are_shown() -> None:
    with pytest.raises(AppNotLoaded) as refused:
        load_app(Settings())

    assert all(word in str(refused.value) for word in ["--app", "LEASEHOLD_APP", "pyproject.toml", "leasehold demo"])


@pytest.mark.parametrize("app", ["shop", "shop:", ":app", "shop.py:app", "src/shop:app", "a b:c"])
def test_a_name_of_another_form_is_refused_with_an_example(app: str) -> None:
    assert "app:app" in refusal(app)


def test_a_misspelt_module_gets_the_closest_one() -> None:
    write("orders.py", GOOD)

    said = refusal("order:flows")

    assert 'no module "order"' in said
    assert '"orders"' in said


def test_a_misspelt_submodule_gets_the_closest_one() -> None:
    write("shop_five/orders.py", GOOD)

    assert '"shop_five.orders"' in refusal("shop_five.order:flows")


def test_a_module_that_is_nowhere_near_is_looked_for_in_a_place_that_is_named() -> None:
    Path("empty_folder").mkdir()
    assert f"no modules in {Path.cwd()}" in refusal("shop_nowhere:flows")

    write("warehouse/flows.py", GOOD)
    write("till.py", GOOD)
    assert f"Modules in {Path.cwd()}: till, warehouse." in refusal("shop_nowhere:flows")


def test_a_misspelt_attribute_gets_the_apps_that_are_there() -> None:
    write("shop_six.py", GOOD)

    said = refusal("shop_six:app")

    assert 'no attribute "app"' in said
    assert "shop_six:flows" in said


@pytest.mark.parametrize("attribute,what", [("number", "of type int"), ("make", "a function")])
def test_something_else_than_an_app_is_refused(attribute: str, what: str) -> None:
    write("shop_seven.py", GOOD)

    said = refusal(f"shop_seven:{attribute}")

    assert f"is not an App, it is {what}" in said
    assert "shop_seven:flows" in said


def test_a_module_without_an_app_is_told_how_to_make_one() -> None:
    write("shop_eight.py", "applications = 1\n")

    said = refusal("shop_eight:application")

    assert "App(workflows=[...])" in said
    assert '"applications"' in said


@pytest.mark.parametrize(
    "text,said",
    [
        ("x = 1\ny = undefined_name\n", ["shop_nine.py, line 2", "NameError", "undefined_name"]),
        ("def f(:\n", ["shop_nine.py, line 1"]),
        ("import a_module_that_nobody_has\n", ["shop_nine.py, line 1", '"a_module_that_nobody_has" installed']),
        ("def f():\n    raise ValueError('mine')\nf()\n", ["shop_nine.py, line 2", "ValueError: mine"]),
    ],
)
def test_what_the_module_raises_is_told_by_file_and_line(text: str, said: list[str]) -> None:
    write("shop_nine.py", text)

    told = refusal("shop_nine:app")

    assert all(words in told for words in said), told
    assert "Traceback" not in told


def test_a_workflow_that_is_refused_is_told_by_the_line_of_the_user() -> None:
    write(
        "shop_ten.py",
        """\
        from kernel import WorkflowBuilder

        empty = WorkflowBuilder("empty").build()
        """,
    )

    told = refusal("shop_ten:app")

    assert "shop_ten.py, line 3" in told
    assert '"empty"' in told


def test_a_module_that_ends_the_process_is_named() -> None:
    write("shop_eleven.py", "import sys\nsys.exit(7)\n")

    told = refusal("shop_eleven:app")

    assert '"shop_eleven"' in told
    assert "shop_eleven.py, line 2: SystemExit: 7" in told


def test_a_name_that_another_module_has_is_told_with_the_file_that_was_loaded() -> None:
    write("wave.py", GOOD)

    told = refusal("wave:flows")

    assert "loaded from" in told
    assert "wave.py was not loaded" in told
    assert "rename" in told


def test_a_refused_attribute_is_not_offered_again() -> None:
    write("shop_twelve.py", "app = 1\n")

    assert "closest" not in refusal("shop_twelve:app")
