"""The command `diptych classify`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.options import (
    Backend,
    Device,
    Dtype,
    Ignore,
    IgnoreConfig,
    Images,
    MoreFiles,
    Recordings,
    Set,
    Sharding,
    gather_files,
    given_flags,
    parse_settings,
    with_hub_flags,
)  # fmt: skip
from diptych.cli.printing import FileErrors, make_console

if TYPE_CHECKING:
    from diptych.classification import Classification


@with_hub_flags()
def classify(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    more_files: MoreFiles = None,
    image: Images = None,
    audio: Recordings = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL[,LABEL…]",
            help="For a CLIPModel: what may be in the images, in words, between commas; may be repeated.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="For a CLIPModel: a text with {} for a label; by default 'a photo of {}'."),
    ] = None,
    top: Annotated[int, typer.Option(help="The number of labels to print for each file.")] = 5,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    sharding: Sharding = None,
    batch_size: Annotated[int, typer.Option(help="Images, or windows of recordings, to classify at once.")] = 8,
    window: Annotated[
        float | None,
        typer.Option(help="The seconds of a recording that are read at once, by default 30; parts of it are averaged."),
    ] = None,
    ignore: Ignore = None,
    ignore_config: IgnoreConfig = None,
    set: Set = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print a line of JSON for each file: its path, and labels with probabilities."),
    ] = False,
    **options: Any,
) -> None:
    """Classify images or recordings: print the most probable labels of each.

    A classifier has its own labels; a CLIPModel takes any. A file that cannot be read is reported, the others are
    classified, and the exit code is 2.

    Examples:

      diptych classify vit-base-patch16-224 --image cat.jpg

      diptych classify swin-tiny-patch4-window7-224 --image photos/ --top 1 --json

      diptych classify clip-vit-base-patch32 --image *.jpg --labels "a cat,a dog" --template "a drawing of {}"

      diptych classify wav2vec2-base-superb-ks --audio 'commands/*.wav' --top 1
    """
    from diptych.core.errors import InputError

    images, recordings = gather_files("classify", image, audio, more_files)
    if not (images or recordings):
        raise InputError("classify: --image or --audio is needed, with the path of a file")
    errors = FileErrors()
    chosen: dict[str, Any] = {
        "top": top,
        "backend": backend,
        "dtype": dtype,
        "device": device,
        "sharding": sharding,
        "changes": parse_settings(set),
        "batch_size": batch_size,
        "show": (lambda found: typer.echo(found.to_json())) if json else _TablePrinter(),
        "on_error": errors.report,
        "ignore": tuple(ignore or ()),
        "ignore_config": tuple(ignore_config or ()),
        **given_flags(options),
    }
    if recordings:
        from diptych.sound import classify_recordings

        if labels or template is not None:
            raise InputError("classify: --labels and --template are for images; a model of sound has its own labels")
        classify_recordings(directory, recordings, **({} if window is None else {"window": window}), **chosen)
    else:
        from diptych.images import classify_images

        if window is not None:
            raise InputError("classify: --window is for recordings, but there is no --audio")
        named = [label.strip() for one in labels or () for label in one.split(",")]
        classify_images(directory, images, labels=named, template=template, **chosen)
    errors.end()


class _TablePrinter:
    """Prints a table of the labels of each file."""

    def __init__(self) -> None:
        self.console: Any = make_console()

    def __call__(self, found: "Classification") -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(Text(found.path), overflow="fold")
        table.add_column("probability", justify="right", no_wrap=True)
        for label, probability in found.probabilities:
            table.add_row(Text(label), f"{probability:.2%}")
        self.console.print(table)
