"""Rows of several clients in one batch get what each client's own model gives, whatever the batch holds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EVERY, FinishedRuns, own_rows, small_run
from torch import Tensor, nn

from fedlease.client.resident import ResidentModel
from fedlease.core.types import AdapterSpec, ClientModel, TensorName, head_names
from fedlease.data.federation import Row
from fedlease.errors import ModelError
from fedlease.methods.registry import METHODS
from fedlease.models.base import BaseModel, initial_head
from fedlease.tasks.classification import collate
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed import MixedModel

TRAINED = sorted(METHODS.keys() - {"feddpa"})  # which is refused: it takes two passes
TEXTS = ["zib", "a much longer text than all of the others", "kulo mab", "nee nee nee"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    return finished(**EVERY).out


def batch_of(run: OpenRun, texts: list[str]) -> dict[str, Tensor]:
    return collate(run.encode([Row(text, None, 0) for text in texts]), range(len(texts)), run.device)[0]


def expected_of(run: OpenRun, clients: list[str], texts: list[str]) -> list[Tensor]:
    """Row by row, each alone, so without padding and without company."""
    found = []
    for client, text in zip(clients, texts, strict=True):
        run.load(client)
        run.resident.model.eval()
        with torch.inference_mode():
            found.append(run.resident.logits(batch_of(run, [text]))[0].float())
    return found


def assert_same(found: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    assert [f.shape for f in found] == [e.shape for e in expected]
    assert all(f.dtype == torch.float32 and f.device == CPU for f in found)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=atol, rtol=0)


def mixed_rows(run: OpenRun) -> tuple[list[str], list[str]]:
    """Every client with every text, no two neighbours of one client."""
    clients = [client for _ in TEXTS for client in run.clients]
    texts = [TEXTS[(i + i // len(run.clients)) % len(TEXTS)] for i in range(len(clients))]
    return clients, texts


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Rows of every call of a module."""
    calls: list[int] = []
    handle = module.register_forward_hook(lambda m, inputs, result: calls.append(len(result)))
    yield calls
    handle.remove()


def test_a_mixed_batch_gives_what_each_clients_own_model_gives(out: Path) -> None:
    """One method of every kind of adapter, whatever its values were averaged by."""
    seen = dict[frozenset[AdapterSpec], str]()
    for method in TRAINED:
        run, reference = OpenRun(out, method), OpenRun(out, method)
        kind = frozenset(replace(run.model(client).spec, own=0) for client in run.clients)
        if seen.setdefault(kind, method) != method:
            continue
        assert len({len(known.labels) for known in run.clients.values()}) > 1
        clients, texts = mixed_rows(run)
        mixed = MixedModel.of_run(run)
        assert_same(mixed.logits(batch_of(run, texts), clients), expected_of(reference, clients, texts))
    mixers = {spec.mixer for kind in seen for spec in kind}
    assert len(mixers) > 5, seen


def test_the_order_of_rows_and_the_company_do_not_matter(out: Path) -> None:
    run = OpenRun(out)
    clients, texts = mixed_rows(run)
    mixed = MixedModel.of_run(run)
    found = mixed.logits(batch_of(run, texts), clients)
    turned = mixed.logits(batch_of(run, texts[::-1]), clients[::-1])
    assert_same(turned[::-1], found)
    alone = [mixed.logits(batch_of(run, [t]), [c])[0] for c, t in zip(clients, texts, strict=True)]
    assert_same(alone, found)
    # The same text to two clients: the answers are the clients' own.
    one, two = mixed.logits(batch_of(run, ["zib"] * 2), ["planted-0-0", "planted-1-0"])
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("head", ["local", "shared", "frozen"])
def test_every_head_policy(head: str, tmp_path: Path) -> None:
    own_rows(tmp_path / "data")
    folder = small_run(tmp_path / "r", head=head, rounds=1, baselines=[], data__path=str(tmp_path / "data")).out
    run, reference = OpenRun(folder), OpenRun(folder)
    clients, texts = mixed_rows(run)
    mixed = MixedModel.of_run(run)
    assert_same(mixed.logits(batch_of(run, texts), clients), expected_of(reference, clients, texts))
    heads = {
        str([(n, t.tolist()) for n, t in sorted(run.model(c).tensors.items()) if n[:5] == "head/"]) for c in clients
    }
    assert {len(stand_in.heads) for stand_in in mixed._heads.values()} == {len(heads)}
    assert (len(heads) == 1) == (head == "frozen")


@pytest.mark.parametrize("method", ["fedlease", "fedit", "local"])
def test_one_pass_over_the_base_and_one_product_per_distinct_expert(method: str, out: Path) -> None:
    run = OpenRun(out, method)
    clients, texts = mixed_rows(run)
    mixed = MixedModel.of_run(run)
    with counted(mixed.model.get_submodule("bert.encoder")) as calls:
        mixed.logits(batch_of(run, texts), clients)
    assert len(calls) == 1
    layers = list(mixed._layers.values())
    with counted(layers[0].base_layer) as calls:
        mixed.logits(batch_of(run, texts), clients)
    assert calls == [len(texts)]
    # All clients share the M experts; one adapter for all; one for each.
    experts = {"fedlease": run.model(clients[0]).spec.num_experts, "fedit": 1, "local": len(run.clients)}
    assert {len(layer.tensors[kind]) for layer in layers for kind in "AB"} == {experts[method]}
    # Of one client's rows only its experts are multiplied.
    mixed.logits(batch_of(run, ["zib"]), [clients[0]])
    stacked, _ = layers[0].stack(mixed._plan.experts)
    spec = run.model(clients[0]).spec
    assert len(stacked) == spec.num_experts * spec.r


def test_the_base_is_shared_and_the_run_can_still_load_clients(out: Path) -> None:
    run, reference = OpenRun(out), OpenRun(out)
    run.load("planted-1-0")  # PEFT has wrapped the base before
    mixed = MixedModel.of_run(run)
    texts = TEXTS[:2]
    expected = expected_of(reference, ["planted-0-0", "planted-2-0"], texts)
    assert_same(mixed.logits(batch_of(run, texts), ["planted-0-0", "planted-2-0"]), expected)
    assert_same(expected_of(run, ["planted-0-0", "planted-2-0"], texts), expected)
    pointers = {p.data_ptr() for p in run.base.model.parameters()}
    word = mixed.model.get_submodule("bert.embeddings.word_embeddings")
    assert isinstance(word, nn.Embedding) and word.weight.data_ptr() in pointers


def test_clients_are_loaded_when_they_first_occur(out: Path) -> None:
    run = OpenRun(out)
    asked: list[str] = []

    def models(client: str) -> ClientModel:
        asked.append(client)
        return run.model(client)

    mixed = MixedModel(run.base, run.device, models, {c: len(k.labels) for c, k in run.clients.items()})
    run.resident  # noqa: B018  puts the base on its device
    assert asked == []
    for _ in range(2):
        mixed.logits(batch_of(run, TEXTS[:2]), ["planted-1-0", "planted-1-0"])
    assert asked == ["planted-1-0"]


# Random models on tiny random bases of several architectures.


def bert() -> tuple[nn.Module, tuple[str, ...], list[str]]:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**SIZES, intermediate_size=32, max_position_embeddings=32))
    return model, ("classifier",), ["query", "value"]


def bert_with_its_pooler() -> tuple[nn.Module, tuple[str, ...], list[str]]:
    model, heads, _ = bert()
    return model, heads, ["pooler.dense", "query"]


def roberta() -> tuple[nn.Module, tuple[str, ...], list[str]]:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(**SIZES, intermediate_size=32, max_position_embeddings=32, pad_token_id=0)
    return RobertaForSequenceClassification(config), ("classifier",), ["query", "value"]


def distilbert() -> tuple[nn.Module, tuple[str, ...], list[str]]:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    return DistilBertForSequenceClassification(config), ("pre_classifier", "classifier"), ["q_lin", "v_lin"]


def llama() -> tuple[nn.Module, tuple[str, ...], list[str]]:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(**SIZES, intermediate_size=32, max_position_embeddings=32, pad_token_id=0)
    return LlamaForSequenceClassification(config), ("score",), ["q_proj", "v_proj"]


SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ARCHITECTURES: list[Callable[[], tuple[nn.Module, tuple[str, ...], list[str]]]] = [
    bert,
    bert_with_its_pooler,
    distilbert,
    llama,
    roberta,
]


def base_of(make: Callable[[], tuple[nn.Module, tuple[str, ...], list[str]]]) -> tuple[BaseModel, dict[str, nn.Linear]]:
    torch.manual_seed(7)
    model, heads, endings = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.requires_grad_(False).eval()
    targets = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(tuple(endings))}
    assert len(targets) >= 2
    return BaseModel(model, heads, None), dict(sorted(targets.items()))


def random_models(
    base: BaseModel, targets: Mapping[str, nn.Linear], resident: ResidentModel
) -> tuple[dict[str, ClientModel], dict[str, int]]:
    """Three experts in common; clients differ in own expert, router, rule, head and number of labels."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.5

    common = {
        str(TensorName(name, kind, e)): normal(2, m.in_features) if kind == "A" else normal(m.out_features, 2)
        for name, m in targets.items()
        for kind in "AB"
        for e in range(3)
    }
    spec = AdapterSpec(r=2, alpha=3.0, dropout=0.1, target_modules=tuple(targets), num_experts=3, mixer="top_m")
    models, num_labels = {}, {}
    for i in range(9):
        tensors = dict(common)
        for name, m in targets.items():
            tensors[str(TensorName(name, "G"))] = normal(5, m.in_features)
        own = replace(spec, own=i % 3)
        if i == 3:
            own = replace(own, renormalise=False)
        if i == 4:
            own = replace(own, top_k=1, alpha=1.0)
        if i == 5:  # a newcomer with an own expert that has trained on
            tensors.update({n: t + 0.1 for n, t in common.items() if n.endswith(f"/{own.own}")})
        if i == 6:  # two experts of one content
            tensors.update({n[:-1] + "0": t for n, t in common.items() if n.endswith("/1")})
        if i == 7:  # one expert, no routing
            own = replace(own, own=0, num_experts=1, mixer="none")
            tensors = {n: t for n, t in common.items() if n.endswith("/0")}
        if i == 8:  # all experts, weighted by a plain softmax over as many slots
            own = replace(own, mixer="softmax")
            tensors.update({n: t[:3] for n, t in tensors.items() if n.endswith("/G")})
        count = 2 + i % 3
        client = f"c{i}"
        head = initial_head(resident.head_modules(count), seed=i, std=0.5)
        models[client], num_labels[client] = ClientModel(own, {**tensors, **head}), count
    return models, num_labels


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_any_architecture_and_any_mixture_of_rules(
    make: Callable[[], tuple[nn.Module, tuple[str, ...], list[str]]],
) -> None:
    base, targets = base_of(make)
    resident = ResidentModel(base, CPU)
    models, num_labels = random_models(base, targets, resident)
    mixed = MixedModel(base, CPU, models.__getitem__, num_labels)
    clients = [f"c{i}" for i in (5, 0, 7, 3, 8, 1, 1, 4, 2, 6, 0, 8, 7)]
    lengths = [3 + 7 * i % 9 for i in range(len(clients))]
    ids = torch.randint(5, 40, (len(clients), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    found = mixed.logits({"input_ids": ids * mask, "attention_mask": mask}, clients)
    for row, client in enumerate(clients):
        resident.load(models[client], num_labels[client])
        resident.model.eval()
        alone = {"input_ids": ids[row : row + 1, : lengths[row]], "attention_mask": mask[row : row + 1, : lengths[row]]}
        with torch.inference_mode():
            expected = resident.logits(alone)[0]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
    # Three in common, one trained on by c5; c6, c7 and c8 have none of their own.
    assert {len(layer.tensors["A"]) for layer in mixed._layers.values()} == {4}


def test_bfloat16_agrees_to_its_own_precision() -> None:
    base, targets = base_of(bert)
    base.model.to(torch.bfloat16)
    resident = ResidentModel(base, CPU, torch.bfloat16)
    models, num_labels = random_models(base, targets, resident)
    mixed = MixedModel(base, CPU, models.__getitem__, num_labels, torch.bfloat16)
    ids = torch.randint(5, 40, (len(models), 6), generator=torch.Generator().manual_seed(1))
    found = mixed.logits({"input_ids": ids}, list(models))
    for row, client in enumerate(models):
        resident.load(models[client], num_labels[client])
        resident.model.eval()
        with torch.inference_mode():
            expected = resident.logits({"input_ids": ids[row : row + 1]})[0].float()
        # Eight bits of mantissa, 2^-8 of the size of a sum of 16 products, over two layers.
        torch.testing.assert_close(found[row], expected, atol=0.1 * float(expected.abs().max()), rtol=0)


def test_what_cannot_be_computed_together_is_said() -> None:
    base, targets = base_of(bert)
    resident = ResidentModel(base, CPU)
    models, num_labels = random_models(base, targets, resident)
    fewer = tuple(targets)[:1]
    models["c1"] = replace(models["c1"], spec=replace(models["c1"].spec, target_modules=fewer))
    kept = {n: t for n, t in models["c2"].tensors.items() if not n.endswith("/G")}
    models["c2"] = replace(models["c2"], tensors=kept)
    headless = {n: t for n, t in models["c3"].tensors.items() if n not in head_names(models["c3"].tensors)}
    models["c3"] = replace(models["c3"], tensors=headless)
    mixed = MixedModel(base, CPU, models.__getitem__, num_labels)
    ids = {"input_ids": torch.tensor([[5, 6, 7]])}
    before = mixed.logits(ids, ["c0"])
    with pytest.raises(ModelError, match="client 'c1': its adapter has rank 2 on 1 modules, those of other clients"):
        mixed.logits(ids, ["c1"])
    with pytest.raises(ValueError, match=r"client 'c2': its tensors do not fit its spec: \['bert.*/G"):
        mixed.logits(ids, ["c2"])
    with pytest.raises(ValueError, match=r"missing \['head/classifier.bias', 'head/classifier.weight'\]"):
        mixed.logits(ids, ["c3"])
    # A client that cannot be loaded leaves the others as they were.
    assert torch.equal(mixed.logits(ids, ["c0"])[0], before[0])


def test_a_module_that_does_not_get_rows_first_is_refused() -> None:
    base, targets = base_of(bert)
    models, num_labels = random_models(base, targets, ResidentModel(base, CPU))
    mixed = MixedModel(base, CPU, models.__getitem__, num_labels)
    mixed.logits({"input_ids": torch.tensor([[5, 6, 7]])}, ["c0"])
    layer = next(iter(mixed._layers.values()))
    with pytest.raises(ModelError, match=r"query receives \(3, 16\) for 1 rows; rows of several clients"):
        layer(torch.zeros(3, 16))
