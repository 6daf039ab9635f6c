"""The base model in memory, into which adapters and heads of clients are loaded one after another."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

import fedlease.peft_plugin  # noqa: F401  registers FEDLEASE with PEFT
from fedlease.client.determinism import same_bits
from fedlease.core.experts import ROUTER_ROWS
from fedlease.core.types import ANCHOR, AdapterSpec, ClientModel, Tensors, head_names
from fedlease.models.base import BaseModel, new_head_modules
from fedlease.models.first_token import first_token_alone
from fedlease.models.padding import groups_of
from fedlease.peft_plugin.instance import directions_of
from fedlease.peft_plugin.model import FedLeaseModel
from fedlease.peft_plugin.state import adapter_parameters, copy_into, head_parameters, peft_config_for, snapshot, wrap
from fedlease.peft_plugin.usage import uncounted
from fedlease.tasks.base import Task
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Inputs

__all__ = ["ResidentModel"]


class ResidentModel:
    """The base model with one client's adapter and head at a time.

    Args:
        base: loaded once; its weights never change.
        device: of the computation.
        autocast: dtype of matrix products if the base is not float32; None computes in the base's own dtype.
        task: the learning task; None is classification.
        deterministic: whether a GPU must give the same bits every time.
        skip_unread: whether to compute only tokens that the head reads, see :mod:`fedlease.models.first_token`.

    Attributes:
        parameters: of the adapter, and of the head if one was loaded, by name.
        num_labels: number of labels of the client that was loaded last.
    """

    def __init__(
        self,
        base: BaseModel,
        device: torch.device,
        autocast: torch.dtype | None = None,
        task: Task | None = None,
        *,
        deterministic: bool = True,
        skip_unread: bool = False,
    ) -> None:
        self.device = device
        self.skip_unread = skip_unread
        self.deterministic = deterministic
        self.autocast = autocast
        self.task: Task = task or Classification()
        self._base = base
        if not base.placed:
            self._base.model.to(device)
        self._heads: dict[int, dict[str, nn.Module]] = {}
        self._model: PeftModel | None = None
        self._spec: AdapterSpec | None = None
        self._arguments = inspect.signature(base.model.forward).parameters
        self.parameters: dict[str, nn.Parameter] = {}
        self.num_labels = 0

    @property
    def model(self) -> PeftModel:
        """The PEFT model with the adapter that was loaded last.

        Raises:
            RuntimeError: no adapter has been loaded yet.
        """
        if self._model is None:
            raise RuntimeError("load a client's model first")
        return self._model

    @property
    def config(self) -> Any:
        """The configuration of the base model."""
        return self._base.model.config

    @property
    def base_parameters(self) -> int:
        """Number of parameters of the base model, including its own head."""
        return sum(p.numel() for name, p in self._base.model.named_parameters() if "lora_" not in name)

    def head_modules(self, num_labels: int) -> dict[str, nn.Module]:
        """The head modules for a number of labels, made on first use."""
        if num_labels not in self._heads:
            modules = new_head_modules(self._base, num_labels)
            self._heads[num_labels] = {name: module.to(self.device) for name, module in modules.items()}
        return self._heads[num_labels]

    def load(self, model: ClientModel, num_labels: int, tensors: Tensors | None = None) -> None:
        """Loads a client's adapter and head; modules are rebuilt only if the spec changes.

        Args:
            model: spec and values.
            num_labels: number of the client's labels.
            tensors: values to load instead of the model's, such as private ones.
        """
        self._match(model.spec)
        self.restrict(None)
        self.num_labels = num_labels
        self.use_head(self.head_modules(num_labels))
        values = dict(model.tensors if tensors is None else tensors)
        anchor = values.pop(ANCHOR, None)
        if isinstance(self.model.base_model, FedLeaseModel):
            self.model.base_model.set_anchor(anchor)
        parameters = dict(adapter_parameters(self.model))
        if head_names(values):
            parameters |= head_parameters(self._base.model, self._base.head_modules)
        copy_into(parameters, values)
        self.parameters = parameters

    def use_head(self, modules: Mapping[str, nn.Module]) -> None:
        """Replaces the head modules, and sets them to the training or evaluation mode of the model."""
        for name, module in modules.items():
            self._base.model.set_submodule(name, module.train(self._base.model.training))

    def unwrapped(self) -> nn.Module:
        """Unloads the adapter and returns the base model with the head that was set last."""
        if self._model is not None:
            self._model.unload()
        self._model, self._spec, self.parameters = None, None, {}
        return self._base.model

    def twin(self) -> nn.Module:
        """A second tree of modules that shares the weights, without an adapter, in evaluation mode."""
        model = self.unwrapped()
        # bitsandbytes attaches states with tensors to quantised weights, which must be shared too.
        packed = [vars(module)[n] for module in model.modules() for n in ("state", "quant_state") if n in vars(module)]
        shared = {id(held): held for held in (*model.parameters(), *model.buffers(), *packed)}
        return copy.deepcopy(model, dict(shared)).eval()

    def train_only(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Enables gradients for exactly these tensors, and returns them sorted by name."""
        wanted = set(names)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in wanted)
        return [self.parameters[name] for name in sorted(wanted)]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Copies of tensors, on the CPU."""
        return snapshot(self.parameters, names)

    def restrict(self, experts: tuple[int, ...] | None) -> None:
        """Sums only these experts instead of using the mixer; None restores it. A single adapter is not affected."""
        if isinstance(self.model.base_model, FedLeaseModel):
            self.model.base_model.restrict(experts)

    def at_rest(self) -> None:
        """Resets the model after training, even if that failed: no dropout, no gradients, all experts."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.restrict(None)
        self.model.eval()

    def for_scoring(self) -> None:
        """Switches dropout off."""
        if self.model.training:  # eval() walks through all modules, which would slow down every scoring
            self.model.eval()

    def logits(self, inputs: Inputs, last: int | None = None) -> Tensor:
        """The logits: (b, labels) for a classifier, (b, tokens, vocabulary) for a language model.

        Args:
            inputs: of the base model.
            last: number of tokens at the end for which logits are needed; None: all.
        """
        groups = groups_of(self.config, inputs)
        if len(groups) > 1:
            parts = [self.logits({name: values[rows] for name, values in inputs.items()}, last) for rows in groups]
            return torch.cat(parts)[torch.cat(groups).argsort()]
        return self.logits_of(self.model, inputs, last)

    def logits_of(self, model: nn.Module, inputs: Inputs, last: int | None = None) -> Tensor:
        """Computes :meth:`logits` with other modules around this base, for rows that may share a batch."""
        # A tokenizer may return inputs that only other architectures take.
        inputs = {name: values for name, values in inputs.items() if name in self._arguments}
        extra: dict[str, Any] = {}
        if last is not None:
            extra = {"use_cache": False}
            if "logits_to_keep" in self._arguments:
                extra["logits_to_keep"] = last
            if "position_ids" in self._arguments:
                # Positions count from the first token of the text, after the padding.
                extra["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        # The mixer ``instance`` needs the hidden states of all tokens.
        weighs = self._spec is not None and self._spec.mixer == "instance"
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        with self._computing(), first_token_alone(base) if self.skip_unread and not weighs else nullcontext():
            output: Tensor = model(**inputs, **extra).logits
        return output if last is None else output[:, -last:]

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Generates token ids of prompt and continuation, (b, tokens); the prompt is padded on the left.

        The use of experts is not recorded here: the pass that computes a test row's loss records every token once.
        """
        with uncounted(self.model):
            return self.generate_by(self.model, inputs, **options)

    def generate_by(self, model: Any, inputs: Inputs, **options: Any) -> Tensor:
        """Computes :meth:`generate` with other modules around this base."""
        with self._computing():
            tokens: Tensor = model.generate(**inputs, **options)
        return tokens

    def weighing(self, questions: Inputs) -> AbstractContextManager[None]:
        """Within the context, mixtures with a weight per input take it from ``questions``, not the computed inputs."""
        tuner = self.model.base_model
        return tuner.weighing(questions) if isinstance(tuner, FedLeaseModel) else nullcontext()

    def represent(self, inputs: Inputs) -> Tensor:
        """Unit directions of inputs, (b, hidden), see :meth:`fedlease.peft_plugin.model.FedLeaseModel.represent`."""
        assert isinstance(self.model.base_model, FedLeaseModel)  # the mixer ``instance`` is ours
        with self._computing():
            return self.model.base_model.represent(inputs)

    def represent_by(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Computes :meth:`represent` with other modules around this base."""
        with self._computing():
            return directions_of(model, {name: values for name, values in inputs.items() if name in self._arguments})

    def repeatable(self) -> AbstractContextManager[None]:
        """Within the context, the same work gives the same bits, if the settings ask for that."""
        return same_bits(self.device) if self.deterministic else nullcontext()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        autocast = torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)
        with self.repeatable(), autocast:
            yield

    def _match(self, spec: AdapterSpec) -> None:
        if self._spec is not None and self._model is not None:
            if spec == self._spec:
                return
            current = AdapterSpec(**{**vars(self._spec), "own": spec.own})
            if current == spec and isinstance(self._model.base_model, FedLeaseModel):
                self._model.base_model.set_own_expert(spec.own)
                self._spec = spec
                return
            self._model.unload()
        self._model = wrap(self._base.model, peft_config_for(spec))
        self._spec = spec
        if self.autocast is not None and not spec.dropout and spec.mixer not in ROUTER_ROWS:
            # PEFT would convert inputs to the adapter's dtype, and autocast would convert them back. Only routers need
            # the wider dtype.
            for layer in self._model.modules():
                if isinstance(layer, BaseTunerLayer):
                    vars(layer)["cast_input_dtype_enabled"] = False
