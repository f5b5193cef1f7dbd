"""Flags that several commands have."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, without progress bars.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="NAME", help="A tensor, a module, or a pattern with *, to skip; may be repeated."),
]
IgnoreConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="An unknown field of config.json to accept without checks; may be repeated."),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="jax or torch; same results. By default DIPTYCH_BACKEND's, or else the installed one, torch first."
    ),
]
Dtype = Annotated[str | None, typer.Option(help="float64, float32, float16 or bfloat16; by default the checkpoint's.")]
Device = Annotated[
    str | None, typer.Option(help="Such as cpu, cuda:1 or tpu:0; by default the framework's own choice.")
]
Sharding = Annotated[
    str | None,
    typer.Option(
        metavar="replicated|split",
        help="In JAX, over all devices: the whole model on each, or each parameter divided among them.",
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="PATH",
        help="An image, a directory of images, or a quoted pattern such as 'scans/*.png', or - for stdin; "
        "more may follow.",
    ),
]
Recordings = Annotated[
    list[str] | None,
    typer.Option(
        "--audio",
        metavar="PATH",
        help="A recording, a directory of recordings, or a quoted pattern such as 'talks/*.flac', or - for "
        "stdin; more may follow.",
    ),
]
MoreFiles = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="More images or recordings, after --image or --audio.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A config field to change, or a keyword of the class's constructor, such as is_decoder=true; may be "
        "repeated.",
    ),
]


def gather_files(
    verb: str, image: Sequence[str] | None, audio: Sequence[str] | None, more: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The values of --image or of --audio, with the arguments after them.

    Raises:
        InputError: both are given, or such arguments without either.
    """
    from diptych.core.errors import InputError

    if image and audio:
        raise InputError(f"{verb}: a model reads images or sound; give one of --image and --audio")
    if more and not (image or audio):
        raise InputError(
            f"{verb}: {more[0]}: only images or recordings follow the checkpoint; put --image or --audio before them"
        )
    found = [*(image or audio or ()), *(more or ())]
    return ([], found) if audio else (found, [])


_HUB_FLAGS = {
    "revision": "A branch, tag or commit of the checkpoint on the Hugging Face hub.",
    "subfolder": "The directory inside the repository or the given directory that holds the checkpoint.",
    "variant": "Which of several sets of weights, such as fp16 for model.fp16.safetensors.",
    "token": "The hub's access token; by default HF_TOKEN, or that of `hf auth login`.",
}
"""The `HubOptions` that are flags -> their help."""
_PANEL = "Checkpoints on the Hugging Face hub, or in several variants"


def with_hub_flags(*others: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command with a parameter for each flag of `HubOptions`, in place of its **options.

    Args:
        others: the names of further checkpoints that the command takes, whose flags begin with them.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        rows = dict(_HUB_FLAGS)
        for other in others:
            selecting = (name for name in _HUB_FLAGS if name != "token")
            rows |= {f"{other}_{name}": f"--{name} of the {other}." for name in selecting}
        flags = [
            inspect.Parameter(
                name,
                own[-1].kind,
                default=None,
                annotation=Annotated[str | None, typer.Option(help=text, rich_help_panel=_PANEL)],
            )
            for name, text in rows.items()
        ]
        cast(Any, verb).__signature__ = signature.replace(parameters=[*own, *flags])
        return verb

    return decorate


def given_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in options.items() if value is not None}


def parse_settings(given: Sequence[str] | None) -> dict[str, Any]:
    """The values of --set by name: JSON, or else plain text.

    Raises:
        InputError: one is not of the form NAME=VALUE, or another flag sets it.
    """
    import json

    from diptych.core.errors import InputError
    from diptych.core.pretrained import refuse_foreign

    found: dict[str, Any] = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals or not name.isidentifier() or name in _SET_ELSEWHERE:
            flag = f"; {_SET_ELSEWHERE[name]} sets it" if name in _SET_ELSEWHERE else ""
            raise InputError(f"--set {one!r}: NAME=VALUE is needed, with a field of the config{flag}")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    try:
        refuse_foreign("--set", found)
    except TypeError as error:
        raise InputError(str(error)) from None
    return found


_SET_ELSEWHERE = {
    **{
        name: f"--{name.replace('_', '-')}"
        for name in ("dtype", "device", "sharding", "ignore", "ignore_config", *_HUB_FLAGS)
    },
    "cache_dir": "the environment variable HF_HUB_CACHE",
    "local_files_only": "the environment variable HF_HUB_OFFLINE",
}
"""Keywords of `from_pretrained` that are no settings -> what sets them."""
