"""The command `diptych parity`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.options import IgnoreConfig, Json, Set, given_flags, parse_settings, with_hub_flags
from diptych.cli.printing import make_console


@with_hub_flags("candidate")
def parity(
    reference: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    candidate: Annotated[
        str | None, typer.Argument(help="Another one; by default the reference in the other backend.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="transformers: compare the checkpoint, run by transformers, with ours.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="jax or torch, for the candidate.")] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE.npz", help="The call's keywords as arrays; by default random ones."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="An image, read by the checkpoint's processor, as pixel_values; may be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float32, float16 or bfloat16, compared in addition to float64.")
    ] = "float64",
    gradients: Annotated[bool, typer.Option("--gradients/--no-gradients", help="Compare gradients too.")] = True,
    ignore_config: IgnoreConfig = None,
    set: Set = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Compare two models point by point: every module's output, the final outputs, the gradient of every parameter.

    Examples:

      diptych parity clip-vit-base-patch32

      diptych parity clip-vit-base-patch32 --against transformers --dtype float32

      diptych parity original fine-tuned --input batch.npz --no-gradients

      diptych parity vit-gpt2-image-captioning --image photo.jpg

      diptych parity bert-without-pooler --set add_pooling_layer=false
    """
    from diptych.conversion import image_inputs, parity
    from diptych.core.checkpoint.hub import split_options
    from diptych.core.errors import InputError

    if image and input is not None:
        raise InputError("parity: --input has all inputs, so --image has no use beside it; give one of them")
    chosen: Any = {"against": against, "backend": backend, "progress": False if json else None}
    chosen |= {"ignore_config": tuple(ignore_config or ()), **parse_settings(set), **given_flags(options)}
    inputs = None if input is None else _load_arrays(input)
    if image:
        hub, _ = split_options(given_flags(options))
        inputs = image_inputs(reference, image, seed=seed, ignore_config=chosen["ignore_config"], **hub)
    report = parity(reference, candidate, inputs=inputs, seed=seed, dtype=dtype, gradients=gradients, **chosen)
    typer.echo(report.to_json()) if json else make_console().print(report)
    raise typer.Exit(0 if report.passed else 1)


def _load_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file by name."""
    import zipfile

    import numpy as np

    from diptych.core.errors import InputError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except OSError as error:
        raise InputError(f"--input {path}: {error.strerror or error}") from None
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"--input {path}: is no .npz file of plain arrays, as numpy.savez writes it ({error})"
        ) from None
