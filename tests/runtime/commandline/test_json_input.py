"""`--input` and `--config`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime.commandline.starting import read_json


def test_json_stands_on_the_command_line() -> None:
    assert read_json('{"a": [1, null]}', "input") == {"a": [1, None]}


def test_what_is_not_given_is_none() -> None:
    assert read_json(None, "input") is None


def test_a_file_is_named_with_an_at_sign(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"name": "Zoë"}', encoding="utf-8")

    assert read_json(f"@{tmp_path / 'in.json'}", "input") == {"name": "Zoë"}


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]"))

    assert read_json("-", "input") == [1]


@pytest.mark.parametrize(
    "text,said",
    [
        ("{'a': 1}", ["--input is not JSON", "column 2", "single quotes"]),
        ('{"a": 1,\n "b": }', ["line 2, column 7"]),
        ("Ada", ["quotes of its own", "'\"Ada\"'"]),
        ('{"a": NaN}', ["NaN"]),
        ("", ["not JSON"]),
        ("[" * 100_000, ["--input is nested too deeply"]),
        ("1" * 5000, ["a number of 5000 digits, which is too large"]),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', ['--input has a duplicate key "b"']),
        ("@nowhere.json", ["nowhere.json cannot be read", "No such file"]),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(text: str, said: list[str]) -> None:
    with pytest.raises(InvalidCommand) as refused:
        read_json(text, "input")

    assert all(words in str(refused.value) for words in said), str(refused.value)
    assert refused.value.field == "input"


def test_a_forgotten_at_sign_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.json").write_text("{}")

    with pytest.raises(InvalidCommand, match=r"write @in\.json"):
        read_json("in.json", "input")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(b"\xef\xbb\xbf[1]")

    assert read_json(f"@{tmp_path / 'in.json'}", "input") == [1]


@pytest.mark.parametrize(
    "option,example", [("input", '\'{"name": "Ada"}\''), ("config", '\'{"STAGE": {"FIELD": VALUE}}\'')]
)
@pytest.mark.parametrize("text", ["", "{'a': 1}"])
def test_the_example_is_of_the_option_that_is_wrong(option: str, example: str, text: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        read_json(text, option)

    assert refused.value.field == option
    assert example in (refused.value.hint or "")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidCommand, match="UTF-8"):
        read_json(f"@{tmp_path / 'in.json'}", "input")


@pytest.mark.parametrize("text", ["x" * 3_000_000, "@" + "x" * 3_000_000, "{'a': \x1b[2J}", "\x1b[2J", "@\x1b[2J"])
def test_a_wrong_text_is_repeated_short_and_harmless(text: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        read_json(text, "input")

    assert len(str(refused.value)) < 300
    assert "\x1b" not in str(refused.value)


def test_quoting_is_advised_for_what_somebody_typed(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("{'a': 1}", encoding="utf-8")

    for text in (f"@{tmp_path / 'in.json'}", "{'a': 1,\n}"):
        with pytest.raises(InvalidCommand) as refused:
            read_json(text, "input")
        assert "quotes around" not in str(refused.value)


@pytest.mark.parametrize(
    "content,said", [(b"", "(standard input) is empty"), (b"\xff\xfe", "standard input is not UTF-8 text")]
)
def test_standard_input_without_json_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes, said: str) -> None:
    # As with LC_ALL=C, where Python decodes anything.
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", stream)

    with pytest.raises(InvalidCommand) as refused:
        read_json("-", "input")

    assert said in str(refused.value)


def test_an_at_sign_alone_lacks_a_name() -> None:
    with pytest.raises(InvalidCommand, match="name of the file is missing"):
        read_json("@", "input")
