"""Products without a gradient go ways of their own on a CPU: to the same numbers, and torch takes all others."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from diptych.backends.torch import layers, products
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.torch_operations import ONEDNN, called, needs_onednn

# all are large enough; 512, 272 and 1552 are multiples of 16
SHAPES = [(512, 272), (387, 347), (1552, 96), (1601, 83), (2**17, 1)]
ROWS = [*range(10), 16, 33]


class Table(nn.Embedding):
    """A tied output layer: a linear layer whose weight is a table."""

    def __init__(self, features: int, entries: int, **init: Any) -> None:
        super().__init__(entries, features, device="meta", **init)

    def forward(self, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return products.linear_product(values, self.weight)


def linear_without_bias(*shape: int, **init: Any) -> nn.Linear:
    return layers.Linear(*shape, bias=False, **init)


KINDS: dict[str, Callable[..., Any]] = {
    "Linear": layers.Linear,
    "Linear without bias": linear_without_bias,
    "LinearInOut": layers.LinearInOut,
    "Embedding": Table,
}
PARTS = [(kind, part) for kind in KINDS for part in ("values", "weight", "bias")]
PARTS = [(kind, part) for kind, part in PARTS if part != "bias" or kind in ("Linear", "LinearInOut")]
"""What a product is made of."""


def made(kind: str, shape: tuple[int, int] = SHAPES[0], dtype: torch.dtype = torch.float32) -> Any:
    layer = KINDS[kind](*shape, dtype=dtype)
    layer.to_empty(device="cpu")
    if type(layer) is nn.Linear:  # inside a model's call
        products._set_class(layer, products._Linear)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def truth(layer: Any, values: Tensor) -> np.ndarray:
    weight = layer.weight.detach().double().numpy()
    bias = getattr(layer, "bias", None)
    product = values.detach().double().numpy() @ (weight if isinstance(layer, layers.LinearInOut) else weight.T)
    return product if bias is None else product + bias.detach().double().numpy()


def assert_own(kind: str, operations: set[str]) -> None:
    own = "aten::addmm" if kind == "LinearInOut" else "aten::linear"
    assert own in operations and not operations & {ONEDNN, "aten::bmm"}, sorted(operations)


@pytest.fixture(autouse=True)
def pinned() -> Iterator[None]:
    """One way that applies to every product, unless a test says another."""
    with products.pin("onednn"):
        yield


@needs_onednn
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_without_a_gradient_are_those_of_the_product(kind: str, shape: tuple[int, int]) -> None:
    layer = made(kind, shape)
    for rows in ROWS:
        values = torch.randn(rows, shape[0])
        for way in ("torch", "onednn", "columns", "parts") if rows <= 4 else ("torch", "onednn"):
            with torch.no_grad(), products.pin(way):
                found = layer(values)
            assert_close(found, truth(layer, values), kind="float32", name=f"{rows} rows, {way}")
            assert found.is_contiguous() and found.shape == (rows, shape[1])


@needs_onednn
@pytest.mark.parametrize(
    ("kind", "shape", "rows", "pin", "way"),
    [
        ("Linear", (512, 272), 1, "columns", {"aten::cat", "aten::addmm"}),
        ("Linear", (512, 272), 4, "columns", {"aten::addmm"}),
        ("Linear", (512, 272), 5, "columns", {"aten::linear", "aten::addmm"}),
        ("Linear", (512, 272), 5, "onednn", {ONEDNN}),
        ("Linear", (512, 272), 5, "torch", {"aten::linear", "aten::addmm"}),
        ("Linear", (1552, 96), 1, "parts", {"aten::bmm"}),
        ("Linear", (1552, 96), 2, "parts", {"aten::linear", "aten::addmm"}),
        ("Linear", (1552, 90), 1, "parts", {"aten::linear", "aten::addmm"}),
        ("Linear without bias", (512, 272), 1, "columns", {"aten::cat", "aten::mm"}),
        ("Embedding", (512, 272), 4, "columns", {"aten::mm"}),
        ("LinearInOut", (512, 272), 3, "parts", {"aten::bmm"}),
        ("LinearInOut", (512, 272), 4, "parts", {"aten::addmm"}),
        ("LinearInOut", (387, 347), 1, "parts", {"aten::addmm"}),
        ("LinearInOut", (512, 272), 0, "onednn", {"aten::addmm"}),
    ],
)
def test_a_pinned_way_is_taken_where_it_applies(
    kind: str, shape: tuple[int, int], rows: int, pin: str, way: set[str]
) -> None:
    layer, values = made(kind, shape), torch.randn(rows, shape[0])
    with torch.no_grad(), products.pin(pin):
        _, operations = called(lambda: layer(values))
    assert operations & {"aten::linear", "aten::cat", "aten::mm", "aten::addmm", "aten::bmm", ONEDNN} == way


def test_a_process_can_be_pinned() -> None:
    assert products._OF_PROCESS == "torch"  # as conftest.py says
    assert products._pin_in({}) is products._pin_in({"DIPTYCH_TORCH_PRODUCTS": ""}) is None
    with pytest.raises(InputError, match="DIPTYCH_TORCH_PRODUCTS='fast', but it must be one of torch, onednn, columns"):
        products._pin_in({"DIPTYCH_TORCH_PRODUCTS": "fast"})


def test_the_fastest_way_is_measured_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, seconds = 0.0, [], {"torch": 1.0, "other": 0.8, "third": 0.7}

    def way(name: str) -> Callable[..., Tensor]:
        def compute(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            nonlocal now
            now += seconds[name]
            calls.append((name, len(values)))
            return nn.functional.linear(values, weight, bias)

        return compute

    ways = {name: way(name) for name in seconds}
    monkeypatch.setattr(products, "_linear_ways", lambda rows, weight: ways)
    monkeypatch.setattr(products, "_fastest", {})
    monkeypatch.setattr(products.time, "perf_counter", lambda: now)
    layer = made("Linear")
    with torch.no_grad(), products.pin(None):
        for rows, measured in ((50, 32), (60, 0), (33, 0), (3, 3), (2, 2), (3, 0), (7, 7), (5, 0)):
            calls.clear()
            layer(torch.randn(rows, 512))
            assert len(calls) == (1 + 2 * len(ways) if measured else 1), rows  # two rounds, since they take long
            assert calls[-1] == ("third", rows)
            assert {count for _, count in calls[:-1]} == ({measured} if measured else set())
        seconds.update(other=0.95, third=0.91)  # which may be noise
        layer(torch.randn(1, 512))
        assert calls[-1] == ("torch", 1)


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [(), (1,), (2, 1), (2, 2), (2, 3), (2, 1, 4), (0, 3), (3, 0)], ids=str)
def test_values_may_have_any_axes_and_strides(kind: str, lead: tuple[int, ...]) -> None:
    layer = made(kind)
    width = layer.weight.shape[0 if kind == "LinearInOut" else 1]
    turned = torch.randn(width, *reversed(lead)).permute(*reversed(range(len(lead) + 1)))
    stepped = torch.randn(*lead, 2 * width)[..., ::2]
    for values in (torch.randn(*lead, width), turned, stepped):
        for way in products.WAYS:
            with torch.no_grad(), products.pin(way):
                found, operations = called(lambda values=values: layer(values))
            assert_close(found, truth(layer, values), kind="float32")
            assert found.is_contiguous()
            assert (ONEDNN in operations) == (way == "onednn" and values.numel() > 0)


def test_a_tiling_convolution_goes_the_same_way() -> None:
    layer = layers.Conv2d(3, 128, 32, stride=32).to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    pixels = torch.randn(1, 3, 96, 64)
    with torch.no_grad(), products.fast([layer]):
        found, operations = called(lambda: layer(pixels))
    assert products._onednn_linear is None or (ONEDNN in operations and "aten::linear" not in operations)
    assert layer.bias is not None
    expected = torch.conv2d(pixels.double(), layer.weight.double(), layer.bias.double(), 32)
    assert_close(found, expected.detach(), kind="float32")


def test_gradients_are_those_of_torchs_products() -> None:
    first, second, last = made("Linear"), made("LinearInOut", (272, 512)), made("Embedding")

    def ours(values: Tensor) -> Tensor:
        return last(second(first(values).tanh()).tanh())

    def torchs(values: Tensor) -> Tensor:
        hidden = nn.functional.linear(values, first.weight, first.bias).tanh()
        hidden = torch.addmm(second.bias, hidden, second.weight).tanh()
        return nn.functional.linear(hidden, last.weight)

    for rows in (1, 2, 6):
        values = torch.randn(rows, 512, requires_grad=True)
        wanted = [values, *first.parameters(), *second.parameters(), *last.parameters()]
        found, operations = called(lambda values=values: ours(values))
        assert ONEDNN not in operations
        expected = torchs(values)
        assert torch.equal(found, expected)
        for left, right in zip(
            torch.autograd.grad(found.square().sum(), wanted),
            torch.autograd.grad(expected.square().sum(), wanted),
            strict=True,
        ):
            assert torch.equal(left, right)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_whatever_needs_a_gradient_gets_one(kind: str, part: str) -> None:
    layer, values = made(kind).requires_grad_(False), torch.randn(6, 512)
    where = values if part == "values" else getattr(layer, part)
    where.requires_grad_()
    found, operations = called(lambda: layer(values))
    assert_own(kind, operations)
    found.sum().backward()
    assert where.grad is not None and where.grad.shape == where.shape


@needs_onednn
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_need_none(kind: str) -> None:
    layer, values = made(kind).requires_grad_(False), torch.randn(6, 512)
    found, operations = called(lambda: layer(values))
    assert ONEDNN in operations
    assert_close(found, truth(layer, values), kind="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_small_products_are_torchs(kind: str) -> None:
    layer, values = made(kind, (512, 255)), torch.randn(6, 512)
    with torch.no_grad():
        found, operations = called(lambda: layer(values))
    assert_own(kind, operations)
    assert_close(found, truth(layer, values), kind="float32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_are_torchs(kind: str, dtype: torch.dtype) -> None:
    layer = made(kind, dtype=dtype)
    for rows in (0, 1, 2, 6):
        values = torch.randn(rows, 512, dtype=dtype)
        with torch.no_grad():
            found, operations = called(lambda values=values: layer(values))
        assert_own(kind, operations)
        assert found.dtype == dtype
        name = str(dtype).removeprefix("torch.")
        if dtype is torch.bfloat16:  # of which numpy knows nothing
            torch.testing.assert_close(found.double().numpy(), truth(layer, values), rtol=1e-1, atol=1.0)
        else:
            assert_close(found, truth(layer, values), kind=name)


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_that_do_not_fit_are_torchs_error(kind: str) -> None:
    layer = made(kind)
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(6, 512, dtype=torch.float64))
    layer.weight = nn.Parameter(layer.weight.detach().double())
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(6, 512))


@pytest.mark.parametrize("rows", [1, 2, 6])
@pytest.mark.usefixtures("without_type_checks")
def test_a_bias_of_another_dtype_is_torchs(rows: int) -> None:
    layer = made("Linear")
    layer.bias = nn.Parameter(torch.randn(272, dtype=torch.float64))
    values = torch.randn(rows, 512)
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(values)


@pytest.mark.usefixtures("without_type_checks")
def test_shapes_that_do_not_fit_are_torchs_errors() -> None:
    for kind in KINDS:
        for values in (torch.randn(2, 256), torch.randn(6, 511), torch.randn(256), torch.randn(2, 0)):
            with torch.no_grad(), pytest.raises(RuntimeError, match=r"shape|invalid for input|size"):
                made(kind)(values)
    for kind in ("Linear", "LinearInOut"):
        layer = made(kind)
        layer.bias = nn.Parameter(torch.randn(200))
        for rows in (1, 2, 6):
            with torch.no_grad(), pytest.raises(RuntimeError, match=r"size|expand"):
                layer(torch.randn(rows, 512))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_is_torchs(kind: str) -> None:
    layer = made(kind)
    for rows in (1, 2, 6):
        values = torch.randn(rows, 512)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found, operations = called(lambda values=values: layer(values))
        assert_own(kind, operations)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double().numpy(), truth(layer, values), rtol=1e-1, atol=1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("without_type_checks")
def test_a_compiled_layer_has_torchs_product(kind: str) -> None:
    torch.compiler.reset()
    layer = made(kind)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        for rows in (1, 2, 6):
            values = torch.randn(rows, 512)
            assert_close(compiled(values), truth(layer, values), kind="float32")
    assert graphs and "mkldnn" not in "".join(graph.code for graph in graphs)
    exported = torch.export.export(layer, (torch.randn(6, 512),))
    assert "mkldnn" not in exported.graph_module.code


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_without_values_are_torchs(kind: str) -> None:
    layer = made(kind)
    fakes = FakeTensorMode()
    parameters: dict[str, Tensor] = {name: fakes.from_tensor(parameter) for name, parameter in layer.named_parameters()}
    for lead in ((), (1,), (0,), (2, 3)):
        values = torch.randn(*lead, 512)
        with torch.no_grad():
            with fakes:
                fake = torch.func.functional_call(layer, parameters, (fakes.from_tensor(values),))
            outside = torch.func.functional_call(layer, parameters, (fakes.from_tensor(values),))
            absent = copy.deepcopy(layer).to("meta")(values.to("meta"))
        assert type(fake) is type(outside) is FakeTensor
        assert absent.is_meta
        assert fake.shape == outside.shape == absent.shape == (*lead, 272)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_parts_elsewhere_are_torchs(kind: str, part: str) -> None:
    layer, values = made(kind).requires_grad_(False), torch.randn(6, 512)
    if part == "values":
        values = values.to("meta")
    else:
        setattr(layer, part, nn.Parameter(getattr(layer, part).to("meta"), requires_grad=False))

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # torch does not refuse every mixture
            layer(values)

    assert ONEDNN not in called(run)[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch itself scripts
def test_transformations_take_torchs_own_product(kind: str) -> None:
    layer, values, tangent = made(kind), torch.randn(5, 6, 512), torch.randn(6, 512)
    with torch.no_grad():
        together, operations = called(lambda: torch.func.vmap(layer)(values))
        assert ONEDNN not in operations
        assert_close(together, truth(layer, values), kind="float32")
        straight = torch.randn(6, 512)
        found = torch.func.jvp(layer, (straight,), (tangent,))[1]
        weight = layer.weight if kind == "LinearInOut" else layer.weight.T
        expected = (tangent.double() @ weight.double()).numpy()
        assert_close(found, expected, kind="float32")
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(straight, tangent)))
            assert_close(dual.tangent, expected, kind="float32")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("without_type_checks")
def test_those_who_watch_see_torchs_product(kind: str) -> None:
    layer, values = made(kind).requires_grad_(False), torch.randn(6, 512)
    with FlopCounterMode(display=False) as counted:
        layer(values)
    assert counted.get_total_flops() == 2 * 6 * 512 * 272

    seen = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        layer(values)
    assert (torch.addmm if kind == "LinearInOut" else nn.functional.linear) in seen

    traced: Any = torch.jit.trace(layer, values, check_trace=False)  # which forgives no rounding
    assert "mkldnn" not in str(traced.graph)
    for rows in (1, 2, 9):
        values = torch.randn(rows, 512)
        assert_close(traced(values), truth(layer, values), kind="float32")


class Marked(Tensor):
    """A tensor of a class of its own, which notes what is done with it."""

    seen: set[Any] = set()  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.add(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_tensors_of_other_classes_are_torchs(kind: str, part: str) -> None:
    layer, values = made(kind).requires_grad_(False), torch.randn(6, 512)
    expected = truth(layer, values)
    if part == "values":
        values = values.as_subclass(Marked)
    else:
        marked = getattr(layer, part).detach().as_subclass(Marked)
        setattr(layer, part, nn.Parameter(marked, requires_grad=False))
    Marked.seen.clear()
    found, operations = called(lambda: layer(values))
    assert_own(kind, operations)
    assert (torch.addmm if kind == "LinearInOut" else nn.functional.linear) in Marked.seen
    assert_close(found.as_subclass(Tensor), expected, kind="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_may_be_made_of_others(kind: str) -> None:
    layer: Any = parametrizations.weight_norm(made(kind))
    values = torch.randn(6, 512)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2.0)
        assert_close(layer(values), truth(layer, values), kind="float32")
    layer(values).sum().backward()
    assert layer.parametrizations.weight.original1.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_other_strides_is_torchs(kind: str) -> None:
    layer = made(kind)
    layer.weight = nn.Parameter(torch.randn(*(2 * size for size in layer.weight.shape))[::2, ::2])
    for rows in (1, 2, 6):
        values = torch.randn(rows, 512)
        with torch.no_grad():
            found, operations = called(lambda values=values: layer(values))
        assert_own(kind, operations)
        assert_close(found, truth(layer, values), kind="float32")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_are_torchs() -> None:
    layer, values = made("Linear without bias").requires_grad_(False), torch.randn(6, 512)
    expected = truth(layer, values)
    assert_close(layer(values.to_sparse()), expected, kind="float32")
    layer.weight = nn.Parameter(layer.weight.to_sparse_csr(), requires_grad=False)
    assert_close(layer(values), expected, kind="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_without_onednn_the_product_is_torchs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(kind)
    monkeypatch.setattr(products, "_onednn_linear", None)
    for rows in (0, 1, 2, 6):
        values = torch.randn(rows, 512)
        with torch.no_grad():
            found, operations = called(lambda values=values: layer(values))
        assert_own(kind, operations)
        assert_close(found, truth(layer, values), kind="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_who_switches_onednn_off_gets_torchs_product(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, values = made(kind), torch.randn(6, 512)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.no_grad():
        _, operations = called(lambda: layer(values))
    assert_own(kind, operations)
