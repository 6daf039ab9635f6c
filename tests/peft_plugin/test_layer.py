"""The routed layer against the equations of the paper, written as plain loops in ``tiny``."""

import itertools
from typing import Any

import pytest
import torch
from peft_plugin import tiny
from torch import Tensor, nn

from fedlease.core.routing import expert_weights
from fedlease.peft_plugin import FedLeaseConfig, FedLeaseLayer

CASES = [
    (num_experts, own, renormalise)
    for num_experts in (1, 2, 3, 4, 5, 8)
    for own in range(num_experts)
    for renormalise in (True, False)
]


def pieces(routed: FedLeaseLayer) -> dict[str, Any]:
    rule = routed.fedlease_rules["default"]
    return {
        "linear": routed.base_layer,
        "a": routed.stack_a("default"),
        "b": routed.stack_b("default"),
        "router": dict(routed.fedlease_router.items()).get("default"),
        "own": routed.fedlease_own["default"],
        "scaling": rule.scaling,
        "top_k": rule.top_k,
        "renormalise": rule.renormalise,
    }


def inputs(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_experts", "own", "renormalise"), CASES)
def test_stacked_forward_is_the_loop_over_slots(num_experts: int, own: int, renormalise: bool) -> None:
    routed = tiny.layer(num_experts=num_experts, own_expert=own, renormalise=renormalise, lora_alpha=5)
    x = inputs(2, 4, 12)
    assert tiny.relative(routed(x), tiny.loop_forward(x, **pieces(routed))) < 1e-5


@pytest.mark.parametrize(("top_k", "renormalise"), list(itertools.product((1, 2, 3, 5, 7), (True, False))))
def test_top_k_keeps_that_many_slots(top_k: int, renormalise: bool) -> None:
    routed = tiny.layer(num_experts=4, own_expert=2, top_k=top_k, renormalise=renormalise)
    x = inputs(9, 12)
    assert tiny.relative(routed(x), tiny.loop_forward(x, **pieces(routed))) < 1e-5


def test_without_a_mixer_one_expert_is_plain_lora() -> None:
    routed = tiny.layer(num_experts=1, mixer="none", r=3, lora_alpha=6)
    x = inputs(4, 12)
    (a,), (b,) = routed.stack_a("default"), routed.stack_b("default")
    assert tiny.relative(routed(x), routed.base_layer(x) + 2.0 * x @ a.T @ b.T) < 1e-5
    assert "default" not in routed.fedlease_router


@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 3, 12), (2, 2, 3, 12), (0, 12), (1, 0, 12)])
def test_any_number_of_leading_dimensions(shape: tuple[int, ...]) -> None:
    routed = tiny.layer()
    x = inputs(*shape)
    out = routed(x)
    assert out.shape == (*shape[:-1], 10)
    for row, expected in zip(x.reshape(-1, 12), out.reshape(-1, 10), strict=True):
        assert tiny.relative(routed(row.unsqueeze(0))[0], expected) < 1e-5


def test_non_contiguous_input_counts_by_its_values() -> None:
    routed = tiny.layer()
    x = inputs(12, 5, 3).transpose(0, 2)  # (3, 5, 12)
    assert not x.is_contiguous()
    assert tiny.relative(routed(x), tiny.loop_forward(x.contiguous(), **pieces(routed))) < 1e-5


def test_base_output_is_not_changed_in_place() -> None:
    kept: list[Tensor] = []

    class Keeping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(super().forward(x))
            return kept[-1]

    routed = tiny.layer()
    routed.base_layer = Keeping(12, 10)
    x = inputs(4, 12)
    routed(x)
    assert torch.equal(kept[0], nn.functional.linear(x, routed.base_layer.weight, routed.base_layer.bias))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_layer_matches_the_loop_on_the_same_logits(dtype: torch.dtype, renormalise: bool) -> None:
    routed = tiny.layer(num_experts=4, own_expert=1, renormalise=renormalise).to(dtype)
    x = inputs(3, 6, 12).to(dtype)
    slot_logits = nn.functional.linear(x.reshape(-1, 12).float(), routed.fedlease_router["default"].float())
    out = routed(x)
    exact = tiny.layer(num_experts=4, own_expert=1, renormalise=renormalise)
    exact.load_state_dict({name: tensor.float() for name, tensor in routed.state_dict().items()})
    expected = tiny.loop_forward(x.float(), **pieces(exact), slot_logits=slot_logits)
    assert out.dtype == dtype
    assert tiny.relative(out, expected) < (2e-2 if dtype == torch.bfloat16 else 3e-3)


def test_routing_of_a_sixteen_bit_layer_is_in_float32() -> None:
    # In bfloat16 1 + 2^-10 rounds to 1: as 16-bit logits the two slots would tie and the lower, own, slot would win.
    routed = tiny.layer(2, 2, num_experts=2, r=1, top_k=1).to(torch.bfloat16)
    with torch.no_grad():
        routed.fedlease_router["default"].copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 2.0**-10]]))
    seen: list[Tensor] = []
    routed.on_weights = seen.append
    with torch.no_grad():
        routed.eval()(torch.ones(1, 2, dtype=torch.bfloat16))
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == [[0.0, 1.0]]


def test_float32_adapters_on_a_bfloat16_base() -> None:
    routed = tiny.layer(num_experts=3)
    routed.base_layer.to(torch.bfloat16)
    x = inputs(5, 12).to(torch.bfloat16)
    update = routed(x) - routed.base_layer(x)
    exact = pieces(routed) | {"linear": nn.Linear(12, 10)}
    nn.init.zeros_(exact["linear"].weight)
    nn.init.zeros_(exact["linear"].bias)
    assert routed(x).dtype == torch.bfloat16
    assert tiny.relative(update, tiny.loop_forward(x.float(), **exact)) < 2e-2


def test_autocast_keeps_the_selection_of_float32() -> None:
    routed = tiny.layer(num_experts=4, own_expert=3).eval()
    x = inputs(3, 6, 12)
    seen: list[Tensor] = []
    routed.on_weights = seen.append
    with torch.no_grad():
        exact = routed(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = routed(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-5, atol=1e-6)
    assert tiny.relative(rounded, exact) < 2e-2


def test_autocast_gives_finite_float32_gradients() -> None:
    routed = tiny.layer(num_experts=3, own_expert=1)
    x = inputs(3, 6, 12)
    routed(x).square().mean().backward()
    exact = {name: p.grad.clone() for name, p in routed.named_parameters() if p.grad is not None}
    routed.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routed(x).square().mean().backward()
    for name, gradient in exact.items():
        found = dict(routed.named_parameters())[name].grad
        assert found is not None and found.dtype == torch.float32
        assert tiny.relative(found, gradient) < 5e-2, name


class KnownMask(nn.Dropout):
    """Zeroes every third feature, and scales as dropout does."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = (torch.arange(x.shape[-1]) % 3 != 0).to(x.dtype)
        return x * keep / (1 - self.p)


def test_dropout_acts_on_the_experts_and_not_on_routing() -> None:
    routed = tiny.layer(num_experts=4, own_expert=2, lora_dropout=0.4).train()
    routed.fedlease_dropout["default"] = KnownMask(0.4)
    x = inputs(3, 6, 12)
    dropped = routed.fedlease_dropout["default"](x)
    expected = tiny.loop_forward(x, **pieces(routed), dropped=dropped)
    assert tiny.relative(routed(x), expected) < 1e-5
    routed_on_dropped = tiny.loop_forward(dropped, **pieces(routed)) - routed.base_layer(dropped)
    assert tiny.relative(expected - routed.base_layer(x), routed_on_dropped) > 1e-2  # the law can be broken


def test_dropout_of_torch_draws_one_mask_for_all_experts() -> None:
    routed = tiny.layer(num_experts=3, lora_dropout=0.5).train()
    x = inputs(8, 12)
    torch.manual_seed(11)
    out = routed(x)
    torch.manual_seed(11)
    dropped = nn.functional.dropout(x, 0.5)
    assert tiny.relative(out, tiny.loop_forward(x, **pieces(routed), dropped=dropped)) < 1e-5


def test_eval_has_no_dropout_and_train_has_it_again() -> None:
    routed, plain = tiny.layer(lora_dropout=0.5), tiny.layer()
    x = inputs(8, 12)
    assert torch.equal(routed.eval()(x), routed(x))
    assert tiny.relative(routed(x), plain(x)) < 1e-6
    assert not torch.equal(routed.train()(x), routed(x))


@pytest.mark.parametrize(
    ("num_experts", "own", "renormalise", "dropout"),
    [(2, 1, True, 0), (4, 2, True, 0), (4, 0, False, 0), (4, 3, True, 0.3), (8, 5, False, 0.3)],
)
def test_gradients_are_those_of_the_loop(num_experts: int, own: int, renormalise: bool, dropout: float) -> None:
    routed = tiny.layer(num_experts=num_experts, own_expert=own, renormalise=renormalise, lora_dropout=dropout).train()
    if dropout:
        routed.fedlease_dropout["default"] = KnownMask(dropout)
    x, target = inputs(3, 6, 12).requires_grad_(), inputs(3, 6, 10, seed=9)
    own_parameters = [
        routed.stack_a("default")[own],
        routed.stack_b("default")[own],
        routed.fedlease_router["default"],
    ]
    dropped = routed.fedlease_dropout["default"](x)
    loop = (tiny.loop_forward(x, **pieces(routed), dropped=dropped) - target).square().mean()
    expected = torch.autograd.grad(loop, [x, *own_parameters])
    (routed(x) - target).square().mean().backward()
    for parameter, gradient in zip([x, *own_parameters], expected, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max())
    trained = {id(parameter) for parameter in own_parameters}
    for name, parameter in routed.named_parameters():
        assert (parameter.grad is None) == (id(parameter) not in trained), name


def test_zero_router_is_a_dead_point_when_renormalised() -> None:
    routed = tiny.layer(num_experts=4, own_expert=1, renormalise=True)
    nn.init.zeros_(routed.fedlease_router["default"])
    x = inputs(6, 12)
    out = routed(x)
    out.square().sum().backward()
    gradient = routed.fedlease_router["default"].grad
    assert gradient is not None and torch.equal(gradient, torch.zeros_like(gradient))
    routed.restrict((1,), "default")
    assert tiny.relative(out, routed(x)) < 1e-6  # the own expert alone


@pytest.mark.parametrize(("zero", "renormalise"), [(False, True), (False, False), (True, False)])
def test_random_or_unnormalised_router_learns(zero: bool, renormalise: bool) -> None:
    routed = tiny.layer(num_experts=4, own_expert=1, renormalise=renormalise)
    if zero:
        nn.init.zeros_(routed.fedlease_router["default"])
    routed(inputs(6, 12)).square().sum().backward()
    gradient = routed.fedlease_router["default"].grad
    assert gradient is not None and gradient.abs().max() > 1e-3


def test_fresh_layer_is_the_base_layer_and_starts_all_experts_alike() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 10)
    routed = FedLeaseLayer(linear, "default", FedLeaseConfig(r=3, num_experts=4, target_modules=["x"]))
    x = inputs(5, 12)
    assert torch.equal(routed(x), linear(x))
    assert all(torch.equal(a, routed.stack_a("default")[0]) for a in routed.stack_a("default"))
    bound = 1 / 12**0.5  # Kaiming-uniform with a = sqrt 5
    for tensor in (routed.stack_a("default")[0], routed.fedlease_router["default"]):
        assert 0.5 * bound < tensor.abs().max() <= bound
    assert routed.fedlease_router["default"].shape == (7, 12)


def test_without_init_weights_every_expert_has_a_b_of_its_own_and_a_fresh_layer_changes_the_output() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 10)
    config = FedLeaseConfig(r=3, num_experts=4, target_modules=["x"], init_weights=False)
    routed = FedLeaseLayer(linear, "default", config)
    stack, bound = routed.stack_b("default"), 1 / 3**0.5  # Kaiming-uniform with a = sqrt 5 over r = 3 inputs
    assert all(0.5 * bound < b.abs().max() <= bound for b in stack)
    assert not any(torch.equal(stack[i], stack[j]) for i in range(4) for j in range(i))
    assert not torch.allclose(routed(inputs(5, 12)), linear(inputs(5, 12)))


@pytest.mark.parametrize("mixer", ["top_m", "softmax", "none"])
def test_one_expert_has_no_router_and_is_plain_lora(mixer: str) -> None:
    linear = nn.Linear(12, 10)
    config = FedLeaseConfig(r=3, num_experts=1, lora_alpha=6, mixer=mixer, target_modules=["x"], init_weights=False)
    routed = FedLeaseLayer(linear, "default", config)
    assert len(routed.fedlease_router) == 0
    x, (a,), (b,) = inputs(2, 4, 12), routed.stack_a("default"), routed.stack_b("default")
    assert tiny.relative(routed(x), linear(x) + 2.0 * x @ a.T @ b.T) < 1e-6


@pytest.mark.parametrize("experts", [(0,), (2,), (0, 2), (0, 1, 2), ()])
def test_restricted_experts_are_summed_with_weight_one(experts: tuple[int, ...]) -> None:
    routed = tiny.layer(num_experts=3, own_expert=1, r=3, lora_alpha=6)
    x = inputs(2, 4, 12)
    mixed = routed(x)
    expected = routed.base_layer(x)
    for expert in experts:
        expected = expected + 2.0 * x @ routed.stack_a("default")[expert].T @ routed.stack_b("default")[expert].T
    routed.restrict(experts, "default")
    assert tiny.relative(routed(x), expected) < 1e-5
    routed.restrict(None, "default")
    assert torch.equal(routed(x), mixed)


def test_restrict_and_own_refuse_experts_that_do_not_exist() -> None:
    routed = tiny.layer(num_experts=3)
    with pytest.raises(ValueError, match=r"experts must be in 0 \.\. 2, received \(0, 3\)"):
        routed.restrict((0, 3), "default")
    with pytest.raises(ValueError, match=r"own expert must be in 0 \.\. 2, received -1"):
        routed.set_own_expert(-1, "default")
    assert routed.fedlease_restricted["default"] is None
    assert routed.fedlease_own["default"] == 0


def test_listener_hears_the_weights_of_the_forward_pass() -> None:
    routed = tiny.layer(num_experts=4, own_expert=2).eval()
    heard: list[Tensor] = []
    routed.on_weights = heard.append
    x = inputs(2, 3, 12)
    with torch.no_grad():
        routed(x)
    expected = expert_weights(x @ routed.fedlease_router["default"].T, 2)
    torch.testing.assert_close(heard[0], expected)


class OnlyForward(nn.Module):
    """Like a quantised linear module: integer weight, no gradient to it, features and ``forward`` only."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = features_in, features_out
        packed = torch.randint(-127, 127, (features_out, features_in), dtype=torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.float() / 127).T


class NoWeight(nn.Module):
    in_features, out_features = 12, 10

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :10] * 2


@pytest.mark.parametrize("make", [lambda: OnlyForward(12, 10), NoWeight], ids=["int8", "no weight"])
def test_base_layer_needs_only_forward_and_its_features(make: Any) -> None:
    linear = make()
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    routed = FedLeaseLayer(linear, "default", FedLeaseConfig(r=3, num_experts=3, own_expert=1, target_modules=["x"]))
    for parameter in [*routed.stack_a("default"), *routed.stack_b("default"), *routed.fedlease_router.values()]:
        assert parameter.dtype == torch.float32
        nn.init.normal_(parameter)
    x = inputs(4, 12)
    out = routed(x)
    assert tiny.relative(out, tiny.loop_forward(x, **pieces(routed))) < 1e-5
    out.sum().backward()
    assert routed.stack_b("default")[1].grad is not None
    assert all(torch.equal(linear.state_dict()[name], tensor) for name, tensor in before.items())


def test_fresh_adapters_take_a_float_dtype_from_the_base() -> None:
    half = FedLeaseLayer(nn.Linear(12, 10).half(), "default", FedLeaseConfig(r=2, target_modules=["x"]))
    assert {p.dtype for p in half.stack_a("default")} == {torch.float16}


@pytest.mark.parametrize(
    "module",
    [
        nn.Embedding(20, 12),
        nn.Conv1d(12, 12, 1),
        nn.Conv2d(12, 12, 1),
        nn.MultiheadAttention(12, 2),
        nn.MultiheadAttention(12, 2, kdim=6),
        nn.LayerNorm(12),
        nn.ReLU(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_that_are_not_linear_are_refused(module: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"adapts linear modules, received {type(module).__name__}; set target_modules"):
        FedLeaseLayer(module, "default", FedLeaseConfig(r=2, target_modules=["x"]))


def test_rank_larger_than_the_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="r must be at most the layer's smaller side, 10, received 11"):
        tiny.layer(12, 10, r=11)
    tiny.layer(12, 10, r=10)


@pytest.mark.parametrize("call", ["merge", "unmerge"])
def test_layer_refuses_to_merge_and_stays_usable(call: str) -> None:
    routed = tiny.layer()
    x = inputs(4, 12)
    before, weight = routed(x), routed.base_layer.weight.clone()
    with pytest.raises(ValueError, match="export_expert"):
        getattr(routed, call)()
    assert torch.equal(routed(x), before) and torch.equal(routed.base_layer.weight, weight)
    assert not routed.merged


def test_repr_names_the_layer() -> None:
    assert repr(tiny.layer()).startswith("fedlease.FedLeaseLayer(")
