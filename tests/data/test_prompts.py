"""Rows for generation: three forms, and the sentence of every fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.config.data import ColumnSettings
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.prompts import ROLES, read_prompt_examples, read_prompts, written_prompts
from fedlease.data.reading.rows import Record, Table
from fedlease.data.reading.tables import parse_table

FILE = Path("rows.jsonl")
COLUMNS = ColumnSettings()


def table_of(*rows: dict[str, Any], typed: bool = True) -> Table:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(FILE, columns, tuple(Record(line, row) for line, row in enumerate(rows, start=1)), typed)


def chat(*said: str) -> list[dict[str, str]]:
    """``chat("user hi", "assistant yes")``"""
    return [dict(zip(("role", "content"), one.split(" ", 1), strict=True)) for one in said]


def read(*rows: dict[str, Any], columns: ColumnSettings = COLUMNS) -> tuple[tuple[Row, ...], list[str]]:
    faults = Faults()
    examples = read_prompt_examples(table_of(*rows), columns, faults)
    return tuple(example.row for example in examples), faults.found


def asked(*rows: dict[str, Any], columns: ColumnSettings = COLUMNS) -> tuple[list[Row], list[str]]:
    faults = Faults()
    return read_prompts(table_of(*rows), columns, faults), faults.found


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "2 + 2?", "response": "4"}, Row("2 + 2?", None, 0, "4")),
        ({"instruction": "Add.", "output": "4"}, Row("Add.", None, 0, "4")),
        ({"instruction": "Add.", "input": "2 2", "output": "4"}, Row("Add.\n\n2 2", None, 0, "4")),
        ({"instruction": "Add.", "input": "", "output": "4"}, Row("Add.", None, 0, "4")),
        ({"instruction": "Add.", "input": None, "output": "4"}, Row("Add.", None, 0, "4")),
        ({"messages": chat("user hi", "assistant yes")}, Row("hi", None, 0, "yes")),
        (
            {"messages": chat("system be brief", "user hi", "assistant yes?", "user why", "assistant so")},
            Row("why", None, 0, "so", (("system", "be brief"), ("user", "hi"), ("assistant", "yes?"))),
        ),
        ({"messages": json.dumps(chat("user hi", "assistant yes"))}, Row("hi", None, 0, "yes")),
        ({"messages": [{**chat("user hi")[0], "name": "Ada"}, *chat("assistant yes")]}, Row("hi", None, 0, "yes")),
    ],
)
def test_every_form_gives_a_prompt_and_its_response(row: dict[str, Any], expected: Row) -> None:
    assert read(row) == ((expected,), [])


def test_the_first_form_whose_columns_are_there_is_taken() -> None:
    row = {"instruction": "i", "output": "o"}
    assert read(row)[0][0].text == "i"
    assert read({**row, "messages": chat("user m", "assistant r")})[0][0].text == "m"
    both = {**row, "messages": chat("user m", "assistant r"), "prompt": "p"}
    assert read(both)[0][0].text == "m"  # a prompt without a response is no form
    assert read({**both, "response": "r"})[0][0].text == "p"
    assert asked(both)[0][0].text == "p"


def test_columns_are_mapped_and_place_is_read() -> None:
    table = table_of({"q": "p", "a": "r", "site": "x", "split": "test", "about": "qa"})
    columns = ColumnSettings(prompt="q", response="a", client="site", task="about")
    faults = Faults()
    (example,) = read_prompt_examples(table, columns, faults)
    assert (example.row.text, example.row.response, example.labels) == ("p", "r", ())
    assert (example.place, example.client, example.split, example.task) == ((FILE, 1), "x", "test", "qa")
    assert faults.found == []


def test_a_mapped_column_that_is_absent_is_a_fault_and_no_other_form_is_taken_for_it() -> None:
    row = {"instruction": "i", "output": "o"}
    there = "it has 'instruction', 'output': set data.columns"
    rows, found = read(row, columns=ColumnSettings(prompt="q", response="a"))
    assert rows == ()
    assert found == [
        f"rows.jsonl: no column 'q'; {there}.prompt",
        f"rows.jsonl: no column 'a'; {there}.response",
    ]
    rows, found = read({"q": "p", **row}, columns=ColumnSettings(prompt="q"))
    assert rows[0].text == "i" and found == []  # "response" is the default name, so nothing was asked for by it
    assert [row.text for row in asked({"q": "p"}, columns=ColumnSettings(prompt="q", response="a"))[0]] == ["p"]


def test_a_table_of_no_form_names_the_forms_and_its_columns() -> None:
    row = {"text": "x", "label": 0}
    assert read(row) == (
        (),
        [
            "rows.jsonl: no prompts; it has 'text', 'label', but for generation a row has 'prompt' and 'response' "
            "(data.columns.prompt, data.columns.response), or 'messages' or 'conversations', or 'instruction' and "
            "'output' with an optional 'input'"
        ],
    )
    assert asked(row) == (
        [],
        [
            "rows.jsonl: no prompts; it has 'text', 'label', but for generation a row has 'prompt' "
            "(data.columns.prompt), or 'messages' or 'conversations', or 'instruction' with an optional 'input'"
        ],
    )
    assert read() == ((), []) and asked() == ([], [])  # an empty file is told elsewhere


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": " ", "response": "r"}, ["column 'prompt': a prompt must not be empty, got ' '"]),
        ({"prompt": None, "response": "r"}, ["column 'prompt': a prompt must not be empty, got None"]),
        ({"prompt": "p", "response": ""}, ["column 'response': a response must not be empty, got ''"]),
        ({"prompt": "p", "response": 5}, ["column 'response': a response must be a string, got 5"]),
        ({"prompt": "p"}, ["column 'response': is missing"]),
        (
            {"prompt": "p\ud800", "response": ""},
            [
                "column 'prompt': a prompt must be valid Unicode, got a lone surrogate at position 1",
                "column 'response': a response must not be empty, got ''",
            ],
        ),
    ],
)
def test_faults_of_prompts_and_responses(row: dict[str, Any], expected: list[str]) -> None:
    good = {"prompt": "p", "response": "r"}
    assert read(good, row) == ((Row("p", None, 0, "r"),), [f"rows.jsonl, line 2, {rule}" for rule in expected])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "", "output": "o"}, "column 'instruction': a prompt must not be empty, got ''"),
        ({"instruction": "i", "output": None}, "column 'output': a response must not be empty, got None"),
        ({"instruction": "i", "input": 5, "output": "o"}, "column 'input': an input must be a string, got 5"),
    ],
)
def test_faults_of_instructions(row: dict[str, Any], expected: str) -> None:
    assert read(row) == ((), [f"rows.jsonl, line 1, {expected}"])


FORM = 'a list of {"role": ..., "content": ...} or of {"from": ..., "value": ...}'


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (None, [f"messages must be {FORM}, got None"]),
        (5, [f"messages must be {FORM}, got 5"]),
        ("{}", [f"messages must be {FORM}, got {{}}"]),
        (
            "hi",
            ["messages must be a list, or a list as JSON text, got 'hi': Expecting value: line 1 column 1 (char 0)"],
        ),
        ([], ["the last message is the response and must be from the assistant, but there is none"]),
        (["hi"], ['message 1: must be {"role": ..., "content": ...}, got \'hi\'']),
        (
            chat("user hi", "robot 5", "assistant yes"),
            ["message 2: a role must be one of system, user, assistant, tool, got 'robot'"],
        ),
        ([{"content": "hi"}], ["message 1: a role must be one of system, user, assistant, tool, got None"]),
        (
            chat("user hi", "system be brief", "assistant yes"),
            ["message 2: only the first message may be from the system"],
        ),
        (chat("user  ", "assistant yes"), ["message 1: a content must not be empty, got ' '"]),
        ([*chat("user hi"), {"role": "assistant"}], ["message 2: a content must not be empty, got None"]),
        ([*chat("user hi"), {"role": "assistant", "content": 5}], ["message 2: a content must be a string, got 5"]),
        (
            [{"role": "me", "content": "hi"}, {"role": "assistant", "content": ""}],
            [
                "message 1: a role must be one of system, user, assistant, tool, got 'me'",
                "message 2: a content must not be empty, got ''",
            ],
        ),
        (
            chat("user hi", "assistant yes", "user why"),
            ["the last message is the response and must be from the assistant, but it is from the user"],
        ),
        (
            chat("assistant yes"),
            ["the message before the response must be from the user or a tool, but there is none"],
        ),
        (
            chat("system be brief", "assistant yes"),
            ["the message before the response must be from the user or a tool, but it is from the system"],
        ),
    ],
)
def test_faults_of_chats(messages: object, expected: list[str]) -> None:
    assert read({"messages": messages}) == ((), [f"rows.jsonl, line 1, column 'messages': {rule}" for rule in expected])


def test_a_row_without_the_column_of_its_file_is_a_fault() -> None:
    rows, found = read({"messages": chat("user hi", "assistant yes")}, {"text": "x"})
    assert (len(rows), found) == (1, ["rows.jsonl, line 2, column 'messages': is missing"])


def test_long_values_are_cut_in_faults() -> None:
    (fault,) = read({"messages": "x" * 1000})[1]
    assert len(fault) < 250


def test_prompts_are_read_without_responses() -> None:
    assert asked({"prompt": "p"})[0] == [Row("p", None, 0)]
    assert asked({"prompt": "p", "response": ""})[0] == [Row("p", None, 0)]  # not looked at
    assert asked({"instruction": "i", "input": "x"})[0] == [Row("i\n\nx", None, 0)]
    said = chat("system s", "user hi", "assistant yes", "user why")
    expected = Row("why", None, 0, turns=(("system", "s"), ("user", "hi"), ("assistant", "yes")))
    assert asked({"messages": said})[0] == [expected]
    assert asked({"messages": [*said, *chat("assistant so")]})[0] == [expected]


@pytest.mark.parametrize(
    ("messages", "got"), [([], "there is none"), (chat("assistant yes"), "there is none"), (chat("system s"), "system")]
)
def test_a_chat_to_answer_ends_with_the_user(messages: object, got: str) -> None:
    got = got if " " in got else f"it is from the {got}"
    assert asked({"messages": messages}, {"messages": chat("user hi")}) == (
        [Row("hi", None, 0)],
        [f"rows.jsonl, line 1, column 'messages': the last message must be from the user or a tool, but {got}"],
    )


HI, YES = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}
BRIEF = {"role": "system", "content": "be brief"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
            Row("hi", None, 0, "yes"),
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "be brief"},
                    {"from": "human", "value": "hi"},
                    {"from": "function_call", "value": "add(2)"},
                    {"from": "observation", "value": "5"},
                    {"from": "gpt", "value": "yes"},
                ]
            },
            Row("5", None, 0, "yes", (("system", "be brief"), ("user", "hi"), ("assistant", "add(2)")), "tool"),
        ),
        ({"conversations": [HI, YES]}, Row("hi", None, 0, "yes")),
        ({"messages": [{"from": "user", "value": "hi"}, YES]}, Row("hi", None, 0, "yes")),
        ({"prompt": "hi", "completion": "yes"}, Row("hi", None, 0, "yes")),
        ({"prompt": [BRIEF, HI], "completion": [YES]}, Row("hi", None, 0, "yes", (("system", "be brief"),))),
        ({"prompt": [HI], "completion": "yes"}, Row("hi", None, 0, "yes")),
        ({"prompt": "hi", "response": [YES]}, Row("hi", None, 0, "yes")),
        (
            {"messages": [{"role": "developer", "content": "be brief"}, HI, YES]},
            Row("hi", None, 0, "yes", (("system", "be brief"),)),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, "there"]}, YES]},
            Row("hi\nthere", None, 0, "yes"),
        ),
        (
            {"messages": [HI, {"role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}]},
            Row("hi", None, 0, "yes"),
        ),
        (
            {
                "messages": [
                    HI,
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "1", "content": "5"},
                    YES,
                ]
            },
            Row("5", None, 0, "yes", (("user", "hi"), ("assistant", '{"name": "add", "arguments": {"a": 2}}')), "tool"),
        ),
    ],
)
def test_chats_as_others_write_them(row: dict[str, Any], expected: Row) -> None:
    assert read(row) == ((expected,), [])
    question, found = asked(row)
    assert ([one.question for one in question], found) == ([expected.question], [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, YES]},
            "column 'messages': message 1: only text is read, and part 1 of its content has the type 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}, YES]},
            "column 'messages': message 1: part 1 of its content: a part of a content must not be empty, got ''",
        ),
        (
            {"messages": [{"role": "user", "content": []}, YES]},
            "column 'messages': message 1: a content must not be empty, got ''",
        ),
        (
            {"conversations": [{"from": "gpt", "value": "yes"}]},
            "column 'conversations': the message before the response",
        ),
        (
            {"prompt": [HI, YES], "completion": "yes"},
            "column 'prompt': the message before the response must be from the user or a tool, but it is from the "
            "assistant",
        ),
        (
            {"prompt": [HI], "completion": [YES, HI]},
            "column 'completion': a response must be one message of the assistant, got ['assistant', 'user']",
        ),
        ({"prompt": [HI], "completion": ""}, "column 'completion': a response must not be empty, got ''"),
        (
            {"prompt": [{"role": "robot", "content": "x"}], "completion": "yes"},
            "column 'prompt': message 1: a role must be one of system, user, assistant, tool, got 'robot'",
        ),
    ],
)
def test_faults_of_chats_as_others_write_them(row: dict[str, Any], expected: str) -> None:
    rows, found = read(row)
    assert rows == () and len(found) == 1
    assert found[0].startswith(f"rows.jsonl, line 1, {expected}")


def test_a_prompt_that_begins_like_a_list_is_a_text_where_the_file_has_lists() -> None:
    text = '[{"role": "user", "content": "hi"}]'
    assert read({"prompt": text, "response": "yes"})[0][0].text == text
    faults = Faults()
    cell = text.replace('"', '""')
    table = parse_table(Path("rows.csv"), f'prompt,completion\n"{cell}",yes\n'.encode(), faults, csv=True)
    assert table is not None
    (example,) = read_prompt_examples(table, COLUMNS, faults)
    assert (example.row.text, example.row.response, faults.found) == ("hi", "yes", [])


def test_csv_holds_chats_as_json_text() -> None:
    faults = Faults()
    cell = json.dumps(chat("user a, b", "assistant yes")).replace('"', '""')
    table = parse_table(Path("rows.csv"), f'messages,task\n"{cell}",qa\n[],qa\n'.encode(), faults, csv=True)
    assert table is not None
    (example,) = read_prompt_examples(table, COLUMNS, faults)
    assert (example.row.text, example.row.response, example.task) == ("a, b", "yes", "qa")
    assert faults.found == [
        "rows.csv, line 3, column 'messages': the last message is the response and must be from the assistant, but "
        "there is none"
    ]


USABLE = st.text(min_size=1, max_size=6).filter(lambda text: text.strip() != "")
TURNS = st.tuples(
    st.just(()) | USABLE.map(lambda said: (("system", said),)),
    st.lists(st.tuples(st.sampled_from(ROLES[1:]), USABLE), max_size=3).map(tuple),
).map(lambda parts: (*parts[0], *parts[1]))
ROWS = st.builds(Row, USABLE, st.none(), st.just(0), USABLE, TURNS, st.sampled_from(["user", "tool"]))


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_what_is_written_is_read_back(rows: list[Row]) -> None:
    written = json.loads(json.dumps(written_prompts(rows)))
    assert read(*written) == (tuple(rows), [])
    found, faults = asked(*written)
    assert [row.question for row in found] == [row.question for row in rows] and faults == []


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(ROLES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=8,
)


@given(ANY_JSON)
def test_any_value_gives_one_row_or_faults_of_its_column(value: object) -> None:
    for reader in (read, asked):
        rows, found = reader({"messages": value})
        assert (len(rows) == 1) != bool(found)
        assert all(fault.startswith("rows.jsonl, line 1, column 'messages': ") for fault in found)
