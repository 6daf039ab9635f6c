"""Language models behind OpenAI's API: the answers of ``fedlease chat``, whole and in pieces, and refusals by name."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small import FinishedRuns
from use.serving_client import SECONDS, served

from fedlease.use.chat import Chat
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import Tokens
from fedlease.use.serving.writer import Answer, _Pieces

pytest.importorskip("fastapi", reason="fedlease[serve] is not installed")
httpx = pytest.importorskip("httpx", reason="fedlease[dev] is not installed")

ONE, TWO = "planted-0-0", "planted-1-0"
PATH = "/v1/chat/completions"
ADMIN, OWN = "of-the-administrator", "of-the-client-one"


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    changes: dict[str, Any] = {"rounds": 1, "baselines": [], "data__max_tokens": 60}
    return finished(task="generation", **changes).out


@pytest.fixture(scope="module")
def client(out: Path) -> Iterator[Any]:
    with served(OpenRun(out), max_new_tokens=40) as client:
        yield client


def asked(text: str = "zib", model: str = ONE, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_are_the_clients(client: Any, out: Path) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == list(OpenRun(out).clients)
    assert client.get(f"/v1/models/{ONE}").json()["object"] == "model"
    assert client.get("/v1/models/nobody").status_code == 404


def test_each_model_answers_as_in_a_chat_also_when_asked_in_turns(client: Any, out: Path) -> None:
    chats = {name: Chat(OpenRun(out), name, remember=False) for name in (ONE, TWO)}
    right = {(name, text): chats[name].reply(text) for name in chats for text in ("zib", "mab nee")}
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda key: client.post(PATH, json=asked(key[1], key[0])).json(), right)
        for answer, expected in zip(found, right.values(), strict=True):
            assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected, "refusal": None}


def test_a_stream_is_the_same_answer_in_pieces_with_the_same_count(client: Any) -> None:
    whole = client.post(PATH, json=asked(max_tokens=20)).json()
    streamed = client.post(PATH, json=asked(max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    first, *chunks, last, usage = events(streamed.text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]


def test_tokens_are_counted_and_an_answer_that_is_cut_ends_by_length(client: Any) -> None:
    # The tiny template writes a line per message, a token per byte: "zib" and a line end.
    for most in (1, 3):
        answer = client.post(PATH, json=asked(max_completion_tokens=most)).json()
        assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": most, "total_tokens": 4 + most}
        assert answer["choices"][0]["finish_reason"] == "length"


def test_a_seed_repeats_what_is_sampled(client: Any) -> None:
    texts = [
        client.post(PATH, json=asked(temperature=1.5, seed=seed, max_tokens=20)).json()["choices"][0]["message"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_that_is_cut_is_told(client: Any) -> None:
    whole, cut = (client.post(PATH, json=asked(text, max_tokens=1)) for text in ("zib", "zib " * 50))
    assert "x-fedlease-prompt" not in whole.headers
    assert cut.headers["x-fedlease-prompt"] == "cut" and cut.json()["usage"]["prompt_tokens"] <= 60


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (asked(model="nobody"), 404, "no such model: 'nobody'; GET /v1/models lists them"),
        (asked(max_tokens=41), 400, "max_tokens: at most 40, received 41"),
        (asked(n=2), 400, "n is not supported by this server, received 2"),
        (asked(tools=[{"type": "function"}]), 400, "tools is not supported by this server, received"),
        (asked(response_format={"type": "json_object"}), 400, "response_format is not supported"),
        (asked(wishes=1), 400, "wishes: Extra inputs are not permitted"),
        (asked(temperature=3), 400, "temperature: Input should be less than or equal to 2"),
        (asked(" "), 400, "messages.0.content: must not be empty"),
        (asked(stop=["a"] * 5), 400, "stop"),
        ({"model": ONE, "messages": [{"role": "assistant", "content": "a"}]}, 400, "the last must be user or tool"),
        ({"model": ONE, "messages": []}, 400, "messages: List should have at least 1 item"),
        ([], 400, "Input should be"),
    ],
)
def test_refusals_have_openais_form_and_name_the_parameter(client: Any, body: Any, status: int, sentence: str) -> None:
    answer = client.post(PATH, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert sentence in error["message"] and set(error) == {"message", "type", "param", "code"}


def test_what_changes_nothing_is_accepted(client: Any) -> None:
    more = {"n": 1, "tools": [], "user": "me", "presence_penalty": 0, "metadata": {"a": "b"}, "logprobs": False}
    parts = [{"type": "text", "text": "zi"}, {"type": "text", "text": "b"}]
    answer = client.post(PATH, json={"model": ONE, "messages": [{"role": "user", "content": parts}], **more})
    assert answer.status_code == 200


def test_predict_is_not_there(client: Any) -> None:
    answer = client.post("/predict", json={})
    assert answer.status_code == 404 and PATH in answer.json()["paths"]


def test_the_openai_client_lists_asks_and_streams(client: Any, out: Path) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    right = Chat(OpenRun(out), ONE).reply("zib")
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="unused", timeout=SECONDS, max_retries=0) as api:
        assert ONE in [model.id for model in api.models.list()]
        messages = [{"role": "user", "content": "zib"}]
        answer = api.chat.completions.create(model=ONE, messages=messages)
        assert answer.choices[0].message.content == right
        pieces = api.chat.completions.create(model=ONE, messages=messages, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == right
        with pytest.raises(openai.NotFoundError, match="no such model"):
            api.chat.completions.create(model="nobody", messages=messages)


def test_a_client_token_reaches_its_own_model_alone(out: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(json.dumps({"*": ADMIN, ONE: OWN}))
    run = OpenRun(out)
    with served(run, tokens=Tokens.read(tmp_path / "tokens", run.clients)) as client:
        own, admin = ({"Authorization": f"Bearer {token}"} for token in (OWN, ADMIN))
        assert client.post(PATH, json=asked()).json()["error"]["code"] == "invalid_api_key"
        assert [model["id"] for model in client.get("/v1/models", headers=own).json()["data"]] == [ONE]
        assert client.post(PATH, json=asked(max_tokens=1), headers=own).status_code == 200
        for model in (TWO, "nobody"):  # whether there is such a client is not told
            assert client.post(PATH, json=asked(model=model), headers=own).status_code == 403
        assert client.post(PATH, json=asked(model=TWO, max_tokens=1), headers=admin).status_code == 200


def test_too_many_that_wait_and_one_who_gives_up(out: Path) -> None:
    with served(OpenRun(out), max_waiting=1) as client:
        writer, free, begun = client.app.state.batcher, threading.Event(), threading.Event()
        intact = writer._write

        def slow(answer: Answer) -> None:
            begun.set()
            free.wait(SECONDS)
            intact(answer)

        writer._write = slow
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.post, PATH, json=asked(max_tokens=1))
            assert begun.wait(SECONDS)
            second = pool.submit(client.post, PATH, json=asked(max_tokens=1))
            while not writer.waiting:
                pass
            full = client.post(PATH, json=asked())
            assert full.status_code == 503 and full.json()["error"]["message"] == "too many prompts wait"
            free.set()
            assert first.result(SECONDS).status_code == second.result(SECONDS).status_code == 200


class Words:
    """A tokenizer whose tokens are the pieces of a text."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.words[i] for i in ids)


@pytest.mark.parametrize(
    ("words", "stop", "pieces"),
    [
        # "S" may be the beginning of STOP and is held back until it is not.
        (("\n a", "b S", "o"), ("STOP",), ["a", "b So"]),
        (("a ", "ST", "OP", "b"), ("STOP",), ["a"]),
        (("a ", "\ufffd", "b"), (), ["a", " \ufffdb"]),
    ],
)
def test_pieces_hold_back_what_may_still_change(words: Any, stop: Any, pieces: list[str]) -> None:
    import torch

    heard: list[str] = []
    answer = Answer(ONE, None, lambda event: heard.append(event.text), 9)  # type: ignore[arg-type, union-attr]
    stream = _Pieces(Words(*words), stop, answer)
    stream.put(torch.tensor([[0, 0]]))  # the prompt
    for i in range(len(words)):
        stream.put(torch.tensor([i]))
        if stream.stopped:
            break
    stream.finish()
    assert "".join(heard) == "".join(pieces) and stream.stopped is (words[-1] == "b" and bool(stop))
