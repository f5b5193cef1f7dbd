"""The pickle of a PyTorch state dict, read without executing anything.

The standard library's `pickletools` decodes the opcodes, and what they build here is plain data: dicts, lists, tuples,
numbers, texts and descriptions of tensors. The names that a pickle imports are looked up in the tables below, and never
imported.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from diptych.core.checkpoint.tensors import NUMPY_DTYPES
from diptych.core.checkpoint.torch_storages import Storage, StoredTensor
from diptych.core.errors import CheckpointError


@dataclass(frozen=True)
class _Name:
    """A name that the pickle imports."""

    name: str


class _UnsupportedError(Exception):
    """The pickle needs something other than the values and shapes of tensors."""


_STORAGES: Mapping[str, np.dtype[Any] | None] = {
    "torch.DoubleStorage": NUMPY_DTYPES["float64"],
    "torch.FloatStorage": NUMPY_DTYPES["float32"],
    "torch.HalfStorage": NUMPY_DTYPES["float16"],
    "torch.BFloat16Storage": NUMPY_DTYPES["bfloat16"],
    "torch.LongStorage": NUMPY_DTYPES["int64"],
    "torch.IntStorage": NUMPY_DTYPES["int32"],
    "torch.ShortStorage": NUMPY_DTYPES["int16"],
    "torch.CharStorage": NUMPY_DTYPES["int8"],
    "torch.ByteStorage": NUMPY_DTYPES["uint8"],
    "torch.BoolStorage": NUMPY_DTYPES["bool"],
    "torch.storage.UntypedStorage": None,
}
_MOST_AXES = 32  # of a numpy array in version 1
_DTYPES = {f"torch.{name}": dtype for name, dtype in NUMPY_DTYPES.items()}


def read_state_dict(pickled: bytes | IO[bytes], source: str) -> dict[str, StoredTensor]:
    """The tensors that a pickled state dict describes, by name.

    Args:
        pickled: the pickle, or a file at whose position one begins; the position is moved to its end.
        source: the file, for error messages.

    Raises:
        CheckpointError: the pickle is damaged, needs anything else than tensors (which is named, and not executed), or
            is not a flat dict of tensors.
    """
    found = read_pickle(pickled, source)
    if not isinstance(found, dict):
        raise CheckpointError(f"{source}: holds a {_kind(found)}, but a dict of tensors by name is needed")
    entries = cast(dict[str, Any], found)
    others = [f"{name} ({_kind(value)})" for name, value in entries.items() if not isinstance(value, StoredTensor)]
    if others:
        listed = ", ".join(others[:5]) + (" …" if others[5:] else "")
        raise CheckpointError(
            f"{source}: a dict of tensors alone is needed, but {len(others)} of its {len(entries)} entries hold "
            f"something else: {listed}. If the weights are inside one of them, save that one alone with torch"
        )
    return entries


def read_pickle(pickled: bytes | IO[bytes], source: str) -> Any:
    """What a pickle of plain data and tensors describes; see `read_state_dict`."""
    try:
        return _Machine().run(pickled)
    except _UnsupportedError as error:
        raise CheckpointError(
            f"{source}: its pickle {error}, which diptych does not read; nothing was executed. If you trust the file, "
            "load it with torch and save its dict of dense tensors as safetensors"
        ) from None
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: its pickle is damaged ({type(error).__name__}: {error}). Download or save the file again"
        ) from error


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes | IO[bytes]) -> Any:
        """Returns the object that the pickle describes."""
        for opcode, argument, position in pickletools.genops(pickled):
            step = _STEPS.get(opcode.name)
            if step is None:
                what = opcode.name if argument is None else f"{opcode.name} {str(argument)[:80]!r}"
                raise _UnsupportedError(f"has the instruction {what} at byte {position}")
            step(self, argument)
        (found,) = self.stack
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple(self.stack.pop() for _ in range(count))[::-1])

    def extend(self, items: list[Any]) -> None:
        _of_kind(list, self.stack[-1]).extend(items)

    def update(self, items: list[Any]) -> None:
        target = _of_kind(dict, self.stack[-1])
        for name, value in zip(items[::2], items[1::2], strict=True):
            if _of_kind(str, name) in target:
                raise ValueError(f"the name {name} twice")
            target[name] = value

    def make_dict(self) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.update(items)

    def set_state(self) -> None:
        """Drops the attributes of an OrderedDict, such as `_metadata`."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise _UnsupportedError(f"sets the state of a {_kind(cast(object, target))}")

    def push_name(self, name: str) -> None:
        if name not in (*_CALLS, *_STORAGES, *_DTYPES):
            raise _UnsupportedError(f"asks for {name}")
        self.stack.append(_Name(name))

    def push_stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(f"{_of_kind(str, module)}.{_of_kind(str, name)}")

    def push_storage(self) -> None:
        kind, storage, key, _, count, *view = _of_kind(tuple, self.stack.pop())
        name = _of_kind(_Name, storage).name
        if kind != "storage" or name not in _STORAGES:
            raise _UnsupportedError(f"has a persistent id of type {name}")
        if view not in ([], [None]):  # so the first versions of PyTorch shared memory
            raise _UnsupportedError("has a storage that is a part of another one")
        (count,) = _sizes((count,))
        self.stack.append(Storage(_of_kind(str, key), count, _STORAGES[name]))

    def call(self) -> None:
        arguments, function = _of_kind(tuple, self.stack.pop()), self.stack.pop()
        name = function.name if isinstance(function, _Name) else f"a {_kind(function)}"
        if name not in _CALLS:
            raise _UnsupportedError(f"calls {name}")
        self.stack.append(_CALLS[name](*arguments))


def _kind(value: object) -> str:
    return type(value).__name__.strip("_").lower()


def _of_kind(wanted: type[Any], value: Any) -> Any:
    """The value, if it is of the wanted type."""
    if not isinstance(value, wanted):
        raise TypeError(f"a {_kind(value)} in place of a {wanted.__name__.strip('_').lower()}")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    """A tuple of integers from 0 to 2**63 - 1."""
    if any(type(size) is not int or not 0 <= size < 2**63 for size in _of_kind(tuple, values)):
        raise TypeError("sizes that are no integers from 0 to 2**63 - 1")
    return values


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> StoredTensor:
    return _view(storage, _of_kind(Storage, storage).dtype, offset, shape, strides, metadata)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> StoredTensor:
    return _view(storage, _DTYPES[_of_kind(_Name, dtype).name], offset, shape, strides, metadata)


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> StoredTensor:
    return _of_kind(StoredTensor, data)


def _view(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any, metadata: Any) -> StoredTensor:
    if metadata:  # a conjugated or negated view, whose values have yet to be computed
        raise _UnsupportedError("has a tensor with metadata")
    (offset,), shape, strides = _sizes((offset,)), _sizes(shape), _sizes(strides)
    if len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes")
    empty = 0 in shape  # then neither matters, and along an axis of length 1 no stride does
    strides = tuple(0 if empty or size == 1 else stride for size, stride in zip(shape, strides, strict=True))
    return StoredTensor(_of_kind(Storage, storage), _of_kind(np.dtype, dtype), 0 if empty else offset, shape, strides)


def _ordered_dict(pairs: Any = ()) -> dict[str, Any]:
    """The dict of pairs that old versions of Python pickled."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if _of_kind(str, name) in found:
            raise ValueError(f"the name {name} twice")
        found[name] = value
    return found


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _sizes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
}

_Step = Callable[[_Machine, Any], None]


def _push(make: Callable[[], Any]) -> _Step:
    return lambda machine, _: machine.push(make())


_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "DICT": lambda machine, _: machine.make_dict(),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_to_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, name: machine.push_name(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.push_stack_name(),
    "BINPERSID": lambda machine, _: machine.push_storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.set_state(),
}
"""What each opcode does; all others are refused."""
