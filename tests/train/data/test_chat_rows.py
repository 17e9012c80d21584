"""Rows of chat data in every form that data sets have: read as the same conversation, with the server's own prompts."""

import json
from collections import Counter
from datetime import date
from typing import Any

import pytest

from ossia.harmony.messages import Developer, Message, System, assistant, developer, tool, user
from ossia.train.data.chat_rows import read_line, read_row
from ossia.train.data.sequences import NONE, samplings, sequences
from tests.support.server import scripted
from tests.support.turns import final
from tests.support.vocabularies import small

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def spoken(row: Any, unread: Counter[str] | None = None) -> list[Message]:
    """What is said after the opening."""
    messages = list(read_row(row, 1, unread).messages)
    return [each for each in messages if not isinstance(each.content[0], System)]


def learnt(row: Any) -> str:
    return "".join(
        small().decode([target for target in each.targets if target != NONE])
        for each in sequences(small(), read_row(row, 1))
    )


def called(id: Any, arguments: Any = '{"city":"Oslo"}', name: str = "weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALL = assistant('{"city":"Oslo"}', "commentary", "functions.weather", "<|constrain|>json")
ASKED = [user("Oslo?"), CALL, tool("functions.weather", "-5 C"), assistant("Cold.")]


def asked(call: dict[str, Any], **result: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "-5 C", **result},
        {"role": "assistant", "content": "Cold.", "tool_calls": None},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        asked(called("c"), tool_call_id="c"),
        asked(called("c", {"city": "Oslo"}), tool_call_id="c"),
        asked(called("c")),  # results without ids
        asked(called(None), name="weather"),
        asked(called(7), tool_call_id=7),
        asked(
            {"name": "weather", "arguments": {"city": "Oslo"}}
        ),  # a bare function, as transformers' templates take it
    ],
)
def test_M3_calls_and_results_in_every_spelling(messages: list[dict[str, Any]]):
    assert spoken({"messages": messages})[-4:] == ASKED
    assert spoken({"messages": json.loads(json.dumps(messages)), "tools": None})[-4:] == ASKED


@pytest.mark.parametrize(
    "tools",
    [
        [WEATHER],
        json.dumps([WEATHER]),
        [WEATHER["function"]],
        json.dumps(WEATHER["function"]),
        [json.dumps(WEATHER)],
        [{"function": WEATHER["function"]}],
        [{"name": "weather", "parameters": json.dumps(PARAMETERS)}],
    ],
)
def test_M3_tools_in_every_spelling(tools: Any):
    opening = read_row({"messages": HI, "tools": tools}, 1).messages[1].content[0]
    assert isinstance(opening, Developer)
    ((spec,),) = (space.tools for space in opening.tools)
    assert (spec.name, spec.parameters) == ("weather", PARAMETERS)


@pytest.mark.parametrize("none", [None, [], "", "[]"])
def test_M3_no_tools_in_every_spelling(none: Any):
    assert spoken({"messages": HI, "tools": none}) == [user("Hi"), assistant("Hello.")]


@pytest.mark.parametrize(
    ("weight", "is_learnt"),
    [(1, True), (1.0, True), (None, True), (True, True), (0, False), (0.0, False), (False, False)],
)
def test_M3_weights_in_every_spelling(weight: Any, is_learnt: bool):
    row = {
        "messages": [*HI, {"role": "user", "content": "x"}, {"role": "assistant", "content": "there", "weight": weight}]
    }
    assert ("there" in learnt(row)) == is_learnt


EXCHANGE = [developer(Developer("Be kind.")), user("Hi"), assistant("Hello.")]
FORMS: dict[str, Any] = {
    "messages": {"messages": [{"role": "system", "content": "Be kind."}, *HI]},
    "a list of messages": [{"role": "system", "content": "Be kind."}, *HI],
    "messages and a system column": {"system": "Be kind.", "messages": HI},
    "ShareGPT": {
        "conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    },
    "ShareGPT as text": {"system": "Be kind.", "conversations": json.dumps([{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello."}])},
    "conversations of roles": {"conversations": [{"role": "system", "content": "Be kind."}, *HI]},
    "prompt and completion": {"system": "Be kind.", "prompt": "Hi", "completion": "Hello."},
    "prompt and response": {"system": "Be kind.", "prompt": "Hi", "response": "Hello."},
    "lists of messages": {"prompt": [{"role": "system", "content": "Be kind."}, HI[0]], "completion": [HI[1]]},
    "Alpaca": {"instruction": "Hi", "input": "", "output": "Hello.", "system": "Be kind."},
    "columns of an exchange": {"developer": "Be kind.", "user": "Hi", "analysis": None, "final": "Hello."},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_M3_every_form_is_the_same_conversation(form: str):
    assert spoken(FORMS[form]) == EXCHANGE


def test_M3_alpacas_input_and_history():
    row = {"instruction": "Summarise:", "input": "The fox", "output": "Fox.", "history": [["a", "b"]]}
    assert spoken(row) == [user("a"), assistant("b"), user("Summarise:\nThe fox"), assistant("Fox.")]


def test_M3_sharegpt_calls():
    row = {
        "conversations": [
            {"from": "human", "value": "Oslo?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": "-5 C"},
            {"from": "gpt", "value": "Cold."},
        ],
        "tools": json.dumps([WEATHER["function"]]),
    }
    assert spoken(row)[1:] == ASKED


def test_M3_rows_of_multilingual_thinking_train_as_they_are():
    """HuggingFaceH4/Multilingual-Thinking: the columns beside messages repeat what is in them."""
    row = {
        "reasoning_language": "French",
        "developer": "You are kind.",
        "user": "Hi",
        "analysis": "Bonjour.",
        "final": "Hello.",
        "messages": [
            {"role": "system", "content": "reasoning language: French\n\nYou are kind.", "thinking": None},
            {"role": "user", "content": "Hi", "thinking": None},
            {"role": "assistant", "content": "Hello.", "thinking": "Bonjour."},
        ],
    }
    unread = Counter[str]()
    assert spoken(row, unread)[1:] == [user("Hi"), assistant("Bonjour.", "analysis"), assistant("Hello.")]
    assert "column 'reasoning_language'" in unread
    assert "<|channel|>analysis<|message|>Bonjour.<|end|>" in learnt(row)
    del row["messages"]
    assert spoken(row) == [
        developer(Developer("You are kind.")),
        user("Hi"),
        assistant("Bonjour.", "analysis"),
        assistant("Hello."),
    ]


def test_M3_only_the_completion_of_a_prompt_is_learnt():
    row = {"prompt": [*HI, {"role": "user", "content": "x"}], "completion": [{"role": "assistant", "content": "there"}]}
    assert learnt(row) == "<|channel|>final<|message|>there<|return|>"


def test_M3_columns_and_keys_that_are_not_read_are_counted():
    unread = Counter[str]()
    spoken(
        {"messages": [{**HI[0], "id": 3}, {**HI[1], "audio": None}], "source": "web", "score": 0.5, "split": None},
        unread,
    )
    assert unread == {"column 'source'": 1, "column 'score'": 1, "messages[].id": 1}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"a preference pair \(it has 'rejected'\): preferences are not trained on"),
        ({"chosen": HI, "rejected": HI}, "preference pair"),
        ({"prompt": "a", "completion": "b", "label": False}, "an answer with a label"),
        ({"text": "words"}, r"columns \('text'\) are of no known form: known are messages .*use text = \"FILE\""),
        ({"question": "a", "context": "b"}, r"columns \('question', 'context'\) are of no known form: known are messages"),
        ({"messages": HI, "rejected_response": "c"}, "preference pair"),
        ({"input": HI[:1], "preferred_output": HI[1:], "non_preferred_output": HI[1:]}, "preference pair"),
        ({"messages": HI, "label": True}, "an answer with a label"),
        ({"messages": [{"role": "user", "parts": [{"text": "a"}]}, HI[1]]}, r"messages\[0\] has no content"),
        ({"messages": [HI[0], {"role": "assistant", "content": None}]}, r"messages\[1\] has no content"),
        ({"messages": [HI[0], {"role": "assistant", "content": "<tool_call>{}</tool_call>\n"}]}, "has a call in its text"),
        ({"messages": [HI[0], {**HI[1], "weight": 0.5}]}, r"messages\[1\].weight is 0.5: use 0 or 1"),
        ({"messages": None}, "no known form"),
        (3, "must be a JSON object"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, r"conversations\[0\].from is 'narrator': known are human"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": ["hi"]}, r"messages\[0\] is not an object"),
        ({"messages": HI, "tools": "weather"}, "tools is a string, but not JSON"),
        ({"messages": HI, "tools": [{"name": "f", "parameters": {"city": {"type": "str"}}}]}, "use a JSON schema, with the parameters under"),
        ({"messages": HI, "reasoning_effort": "extreme"}, "reasoning_effort 'extreme' is none of"),
        ({"messages": asked(called("c"), tool_call_id="z")}, r"messages\[2\] answers 'z', which no message before it calls"),
        ({"messages": [*asked(called("c"))[:3], {"role": "tool", "tool_call_id": "c", "content": "x"}, HI[1]]}, "is the second result of one call"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}, HI[1]]}, r"messages\[0\].content\[0\] is of type 'image'"),
    ],
)  # fmt: skip
def test_M3_what_cannot_be_trained_on_is_refused_by_name(row: Any, why: str):
    with pytest.raises(ValueError, match=why):
        read_row(row, 1)


def test_M2_two_turns_whose_calls_have_the_same_id():
    messages = [
        {"role": "user", "content": "Oslo and Rome?"},
        {"role": "assistant", "tool_calls": [called("call_0", '{"city":"Oslo"}')]},
        {"role": "tool", "tool_call_id": "call_0", "content": "cold"},
        {"role": "assistant", "tool_calls": [called("call_0", '{"city":"Rome"}')]},
        {"role": "tool", "tool_call_id": "call_0", "content": "hot"},
        {"role": "assistant", "content": "Cold and hot."},
    ]
    texts = [message.text for message in spoken({"messages": messages})]
    assert texts == ["Oslo and Rome?", '{"city":"Oslo"}', "cold", '{"city":"Rome"}', "hot", "Cold and hot."]


def test_calls_of_the_last_message_are_learnt_without_results():
    row = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": [called("a"), called("b", '{"city":"Rome"}')]},
        ]
    }
    assert learnt(row).count("<|call|>") == 2


NAMES = ("weather", "python", "get weather", "browser.open", "a.b-c", "取得")
RESULTS = [
    [("a", "1"), ("b", "2")],
    [("b", "2"), ("a", "1")],
    [(None, "1"), (None, "2")],
    [
        ("a", [{"type": "text", "text": "1"}, {"type": "text", "text": "x"}]),
        ("b", [{"type": "image_url", "image_url": {"url": "u"}}]),
    ],
]


def conversations() -> list[dict[str, Any]]:
    """Bodies that the server takes and rows that the trainer takes."""
    bodies: list[dict[str, Any]] = []
    for number, name in enumerate(NAMES):
        calls = [called("a", None, name), called("b", {"city": "x"}, name)]
        results = [
            {"role": "tool", "tool_call_id": id, "content": content} for id, content in RESULTS[number % len(RESULTS)]
        ]
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        bodies.append({
            "messages": [
                {"role": "system", "content": ("Be kind.", "Reasoning: high", "x\n# Reasoning: Low", "")[number % 4]},
                {"role": "developer", "content": parts},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
                *results,
                {"role": "assistant", "content": parts, "reasoning": "So."},
                {"role": "user", "content": "go on"},
                {"role": "assistant", "content": "Yes.", "thinking": "Sure."},
                {"role": "user", "content": "and on"},
                {"role": "assistant", "function_call": {"name": name, "arguments": ""}},
                {"role": "function", "name": name, "content": "3"},
                {"role": "assistant", "content": "Done.", "reasoning": "Ended."},
            ],
            "tools": [{"type": "function", "function": {"name": name, "description": "d", "parameters": PARAMETERS}}, WEATHER],
            **({"reasoning_effort": "xhigh"} if number == 1 else {}),
            **({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}} if number == 2 else {}),
        })  # fmt: skip
    return bodies


@pytest.mark.parametrize("body", conversations(), ids=NAMES)
def test_A9_M2_the_trainers_prompts_are_the_servers(body: dict[str, Any]):
    """Before every turn of the assistant both have the same tokens: names, efforts, tools, results, parts, thinking."""
    messages = body["messages"]
    row = read_line(json.dumps({**body, "current_date": date.today().isoformat()}), 1)
    prompts = [small().decode(each.prompt) for each in samplings(small(), row)]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    with scripted(*[final("ok")] * len(turns)) as served:
        for turn in turns:
            answer = served.client.post("/v1/chat/completions", json={**body, "messages": messages[:turn]})
            assert answer.status_code == 200, answer.text
        asked = served.script.prompts
    # the model is asked again between the two calls that one message makes; the server sees only whole turns
    assert [prompt for prompt in prompts if prompt in asked] == asked
    assert len(prompts) == len(asked) + 1


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi", "answer": "Hello."},
        {"query": "Hi", "response": "Hello."},
        {"input": "Hi", "output": "Hello."},
        {"prompt": "Hi", "answer": "Hello."},
        {"problem": "Hi", "solution": "Hello."},
        {"messages": json.dumps(HI)},
        {"messages": [{"role": "User", "content": "Hi"}, {"role": "ASSISTANT", "content": "Hello."}]},
        {"messages": [{"role": "human", "content": "Hi"}, {"role": "model", "content": "Hello."}]},
        {"conversations": [{"from": "human", "content": "Hi"}, {"from": "gpt", "content": "Hello."}]},
        {"conversations": [{"role": "user", "value": "Hi"}, {"role": "assistant", "value": "Hello."}]},
        {"messages": [HI[0], {**HI[1], "weight": "1"}]},
    ],
)
def test_M3_other_names_of_columns_keys_and_roles(row: Any):
    assert spoken(row) == [user("Hi"), assistant("Hello.")]


def test_M3_numbers_are_their_text():
    assert spoken({"question": "1+1", "answer": 2}) == [user("1+1"), assistant("2")]


def test_M3_what_a_question_is_about_stands_below_it():
    """Context in a column of its own was left out: the answer could not be learnt from the question alone."""
    said = [user("Who?\nAda wrote it."), assistant("Ada.")]
    assert spoken({"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada."}) == said
    assert spoken({"question": "Who?", "context": "Ada wrote it.", "answer": "Ada."}) == said


def test_M3_a_system_prompt_in_its_own_column():
    assert spoken({"system_prompt": "Short.", "question": "Hi", "response": "Hello."})[0] == developer("Short.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello.", "reasoning": "greet"},
        {"question": "Hi", "answer": "Hello.", "thinking": "greet"},
        {"messages": [HI[0], {"role": "assistant", "content": "<think>\ngreet\n</think>\n\nHello."}]},
    ],
)
def test_M3_thinking_in_a_column_or_in_tags_is_analysis(row: Any):
    assert spoken(row) == [user("Hi"), assistant("greet", "analysis"), assistant("Hello.")]


@pytest.mark.parametrize("no", [{"weight": 0.0}, {"weight": "0"}, {"train": False}, {"training": False}])
def test_M3_an_answer_that_is_not_to_be_learnt(no: dict[str, Any]):
    assert learnt({"messages": [HI[0], {"role": "assistant", "content": "No.", **no}, *HI]}).count("No.") == 0


@pytest.mark.parametrize("line", ['{"messages": [', "{'messages': []}", "<!DOCTYPE html>", '{"a": NaN}'])
def test_M3_a_line_that_is_no_json_is_named_so(line: str):
    with pytest.raises(ValueError, match=r"is not one JSON value: .*put one row on each line"):
        read_line(line, 1)
