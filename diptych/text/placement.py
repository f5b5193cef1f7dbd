"""How a model is loaded: on the device that the command names, or divided among all devices."""

from collections.abc import Mapping
from typing import Any

from diptych.core.checkpoint.hub import HubOptions
from diptych.core.errors import InputError

SHARDINGS = ("replicated", "split")


def loading_keywords(
    backend: str,
    hub: HubOptions,
    device: str | None,
    sharding: str | None,
    changes: Mapping[str, Any] | None,
    **others: Any,
) -> dict[str, Any]:
    """The keywords with which a backend loads a model from a directory.

    Args:
        backend, device, sharding: as for `placement`.
        hub: which weights of the directory are meant; the rest is done.
        changes: of the config, and keywords of the class's constructor.
        others: further keywords of `from_pretrained`.
    """
    return {**others, "variant": hub.get("variant"), **(changes or {}), **placement(backend, device, sharding)}


def placement(backend: str, device: str | None, sharding: str | None) -> dict[str, Any]:
    """The keyword of the backend's `from_pretrained`; none if nothing is asked for.

    Args:
        backend: jax or torch.
        device: such as "cpu", "cuda:1" or "tpu:0"; without a number the first of its kind.
        sharding: in JAX, over all devices: "replicated" puts every parameter on each, "split" divides the longest axis
            of each parameter that they can divide evenly.

    Raises:
        InputError: there is no such device, or the backend doesn't divide a model in this way.
    """
    if device is not None and sharding is not None:
        raise InputError(f"device={device!r} and sharding={sharding!r} exclude each other; give one of them")
    if sharding is not None:
        return {"sharding": _sharding(backend, sharding)}
    if device is None:
        return {}
    return {"device": _torch_device(device)} if backend == "torch" else {"sharding": _jax_device(device)}


def _torch_device(name: str) -> Any:
    import torch

    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name!r} is none that PyTorch finds here ({reason})") from None
    if device.type == "meta":
        raise InputError("device='meta' holds no values, so nothing can be computed there")
    return device


def _jax_device(name: str) -> Any:
    import jax

    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        found = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise InputError(f"device={name!r} is none that JAX finds here; it finds {found}") from None


def _sharding(backend: str, name: str) -> Any:
    if name not in SHARDINGS:
        raise InputError(f"sharding={name!r} is not known; known: {', '.join(SHARDINGS)}")
    if backend != "jax":
        raise InputError(f"sharding={name!r} needs backend='jax'; PyTorch takes a device")
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("devices",), axis_types=(AxisType.Auto,))

    def split(path: str, shape: tuple[int, ...]) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(shape) if size % count == 0]
        longest = max(fitting, key=lambda axis: shape[axis], default=None)
        return NamedSharding(
            mesh, PartitionSpec(*("devices" if axis == longest else None for axis in range(len(shape))))
        )

    return split if name == "split" else NamedSharding(mesh, PartitionSpec())
