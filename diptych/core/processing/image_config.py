"""Configs of image processors: preprocessor_config.json, in the spelling of every version of transformers."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from diptych.core.check import describe_type, has_type
from diptych.core.config import FrozenMap, freeze_json, thaw_json
from diptych.core.errors import ConfigError
from diptych.core.processing.fields import Accepted, is_accepted, split_fields

Size = tuple[int, int]
"""Height and width."""

_HALF = (0.5, 0.5, 0.5)
_PLAIN: dict[str, Any] = {
    "do_center_crop": False,
    "crop_size": (224, 224),
    "image_mean": _HALF,
    "image_std": _HALF,
    "do_thumbnail": False,
    "do_align_long_axis": False,
    "do_pad": False,
    "do_crop_margin": False,
}
_DOCUMENT = _PLAIN | {"do_thumbnail": True, "do_pad": True, "resample": 2}
_CLIP = _PLAIN | {
    "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "BeitImageProcessor": _PLAIN | {"size": (224, 224), "resample": 3},
    "CLIPImageProcessor": _CLIP | {"size": 224, "do_center_crop": True},
    "DeiTImageProcessor": _PLAIN | {"size": (256, 256), "resample": 3, "do_center_crop": True},
    "DonutImageProcessor": _DOCUMENT | {"size": (2560, 1920)},
    "IdeficsImageProcessor": _CLIP | {"size": (224, 224)},
    "NougatImageProcessor": _DOCUMENT
    | {
        "size": (896, 672),
        "do_crop_margin": True,
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
    },
    "ViTImageProcessor": _PLAIN | {"size": (224, 224), "resample": 2},
}
"""Type -> the fields whose defaults differ from type to type."""

_SUPPORTED: Mapping[str, tuple[str, ...]] = {
    "do_thumbnail": ("DonutImageProcessor", "NougatImageProcessor"),
    "do_align_long_axis": ("DonutImageProcessor", "NougatImageProcessor"),
    "do_pad": ("DonutImageProcessor", "NougatImageProcessor"),
    "do_crop_margin": ("NougatImageProcessor",),
    "do_center_crop": tuple(
        name for name in _DEFAULTS if name not in ("IdeficsImageProcessor", "NougatImageProcessor")
    ),
}
"""Steps that only some types have -> those types."""

_HOUSEKEEPING: Accepted = {
    "_valid_processor_keys": (),
    "auto_map": (),
    "processor_class": (),
    "do_convert_rgb": (),  # images become RGB always
    "do_reduce_labels": (),  # of segmentation maps
    "reduce_labels": (),
    "data_format": (None, "channels_first"),
    "default_to_square": (),  # what a bare number means; `size` is written in full
    "device": (),
    "disable_grouping": (),
    "image_num_channels": (3, None),
    "image_seq_length": (),
    "input_data_format": (None,),
    "pad_size": (None,),
    "random_padding": (False, None),
    "return_tensors": (),
    "use_square_size": (False, None),
}
"""Fields that are carried along."""


@dataclass(frozen=True, kw_only=True)
class ImageProcessorConfig:
    """What an image processor does, step by step; `of_type` and `from_dict` fill in the defaults of its type.

    Attributes:
        image_processor_type: as in transformers, without "Fast" or "Pil".
        do_crop_margin: whether margins around the content of a page are cropped.
        do_align_long_axis: whether an image is turned by 90 degrees if its longer side is not that of `size`.
        do_resize: whether images are resized.
        size: (height, width), or the length of the shorter edge. Types with a thumbnail resize the shorter edge to the
            shorter side of `size` first.
        resample: Pillow's filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
        do_thumbnail: whether images that are larger than `size` are shrunk to fit into it.
        do_pad: whether images are padded to `size` on all sides, with zeros.
        do_center_crop: whether the centre is cut out; images that are smaller are padded with zeros.
        crop_size: (height, width) of the centre.
        do_rescale: whether pixels are multiplied by `rescale_factor`.
        rescale_factor: by default 1 / 255.
        do_normalize: whether `image_mean` is subtracted from pixels, and the result divided by `image_std`.
        image_mean, image_std: of red, green and blue; of grey if there is one each.
        housekeeping: other fields of the file, which are written back.

    Raises:
        ConfigError: a value is invalid.
    """

    resample_filters: ClassVar[tuple[str, ...]] = ("nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming")

    image_processor_type: str
    size: Size | int
    resample: int
    do_center_crop: bool
    crop_size: Size
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    do_thumbnail: bool
    do_align_long_axis: bool
    do_pad: bool
    do_crop_margin: bool
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    housekeeping: FrozenMap = dataclasses.field(default=FrozenMap(), compare=False, repr=False)

    def __post_init__(self) -> None:
        caller, name = type(self).__name__, self.image_processor_type
        _known_type(name, caller)
        hints = {"size": Size | int, "crop_size": Size, "image_mean": tuple[float, ...], "image_std": tuple[float, ...]}
        hints |= {"resample": int, "rescale_factor": float}
        hints |= {field.name: bool for field in dataclasses.fields(self) if field.name.startswith("do_")}
        wrong = [
            f"{field}={thaw_json(getattr(self, field))!r} must be {describe_type(hint)}"
            for field, hint in hints.items()
            if not has_type(getattr(self, field), hint)
        ]
        wrong += [
            f"{field}=True is not supported by {name}"
            for field, types in _SUPPORTED.items()
            if getattr(self, field) is True and name not in types
        ]
        if wrong:
            raise ConfigError(f"{caller}: {'; '.join(wrong)}")
        sides = (self.size,) if isinstance(self.size, int) else self.size
        if min(*sides, *self.crop_size) < 1 or max(*sides, *self.crop_size) > 2**16:
            raise ConfigError(f"{caller}: size={self.size}, crop_size={self.crop_size} must lie between 1 and {2**16}")
        if isinstance(self.size, int) and name in (*_SUPPORTED["do_thumbnail"], "IdeficsImageProcessor"):
            raise ConfigError(f"{caller}: size={self.size}, but {name} needs a height and a width")
        if not 0 <= self.resample < len(self.resample_filters):
            listed = ", ".join(f"{number} ({filter})" for number, filter in enumerate(self.resample_filters))
            raise ConfigError(f"{caller}: resample={self.resample} must be one of {listed}")
        if len(self.image_mean) not in (1, 3) or len(self.image_std) != len(self.image_mean) or 0 in self.image_std:
            raise ConfigError(
                f"{caller}: image_mean={list(self.image_mean)}, image_std={list(self.image_std)} must be three numbers "
                "each, or one each for grey images, and image_std not 0"
            )

    @property
    def channels(self) -> int:
        """The number of channels: 3 for colour, 1 for grey."""
        return len(self.image_mean)

    @classmethod
    def of_type(cls, image_processor_type: str, **fields: Any) -> Self:
        """The config of a type, such as "ViTImageProcessor", with some fields changed."""
        return cls.from_dict({"image_processor_type": image_processor_type, **fields}, source=cls.__name__)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, ignore: Iterable[str] = (), source: str = "config") -> Self:
        """A config from the fields of a `preprocessor_config.json`.

        Args:
            data: the JSON object; null stands for a default.
            ignore: names of unknown fields to carry along instead of refusing them.
            source: the origin of the data in error messages, such as a path.

        Raises:
            ConfigError: the type or fields are unknown (all are listed), or a value is invalid.
        """
        name = _type_name(data, source)
        types = ("image_processor_type", "feature_extractor_type")
        fields = {field: value for field, value in _current_names(name, data).items() if field not in types}
        given, carried = split_fields(
            fields, _declared_fields(cls), _HOUSEKEEPING, ignore=set(ignore), owner=name, source=source
        )
        values = {**_DEFAULTS[name], **{field: _current_form(name, field, value) for field, value in given.items()}}
        try:
            return cls(image_processor_type=name, **values, housekeeping=FrozenMap(carried))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, in any of the spellings that files have.

        So a bare pair for Donut's `size` is width and height, as in its first files.

        Raises:
            ConfigError: a name is unknown, or a value is invalid.
        """
        changes = _current_names(self.image_processor_type, changes)
        unknown = sorted(
            name
            for name, value in changes.items()
            if name not in _declared_fields(type(self)) and not is_accepted(name, value, _HOUSEKEEPING)
        )
        if unknown:
            raise ConfigError(
                f"{self.image_processor_type} has no field {', '.join(unknown)}; it knows "
                f"{', '.join(sorted(_declared_fields(type(self))))}"
            )
        values = {
            name: _current_form(self.image_processor_type, name, value)
            for name, value in changes.items()
            if name in _declared_fields(type(self)) and value is not None
        }
        return dataclasses.replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """Every field, housekeeping included, as plain JSON data in the spelling of transformers 5."""
        data: dict[str, Any] = {name: getattr(self, name) for name in _declared_fields(type(self))}
        data |= {
            "image_processor_type": self.image_processor_type,
            "size": {"shortest_edge": self.size} if isinstance(self.size, int) else _height_width(self.size),
            "crop_size": _height_width(self.crop_size),
        }
        if self.image_processor_type == "IdeficsImageProcessor" and len(set(cast(Size, self.size))) == 1:
            data["image_size"] = cast(Size, self.size)[0]  # all that versions 4 read
        unused = [name for name, types in _SUPPORTED.items() if self.image_processor_type not in types]
        data = {name: value for name, value in data.items() if name not in unused}
        return {name: thaw_json(value) for name, value in sorted({**data, **self.housekeeping}.items())}

    def to_json(self) -> str:
        """The text of a `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def _declared_fields(cls: type[ImageProcessorConfig]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - {"image_processor_type", "housekeeping"}


def _known_type(name: str, source: str) -> None:
    if name not in _DEFAULTS:
        raise ConfigError(
            f"{source}: image_processor_type={name!r} is not known; known: {', '.join(sorted(_DEFAULTS))}"
        )


def _type_name(data: Mapping[str, Any], source: str) -> str:
    """The type that a file names; the names of versions 3 and 4 end otherwise."""
    found = data.get("image_processor_type") or data.get("feature_extractor_type")
    if not isinstance(found, str):
        raise ConfigError(f"{source}: names no image_processor_type; known: {', '.join(sorted(_DEFAULTS))}")
    name = found.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    _known_type(name, source)
    return name


def _current_names(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their current names: IDEFICS' `image_size`, which takes precedence, is `size`."""
    data = dict(data)
    side = data.pop("image_size", None) if name == "IdeficsImageProcessor" else None
    return data if side is None else {**data, "size": side}


def _current_form(name: str, field: str, value: Any) -> Any:
    """A field's value in the form of this class; what is neither an old nor a new form is left as it is."""
    value = freeze_json(value)
    if field in ("image_mean", "image_std"):
        return (value,) * 3 if isinstance(value, int | float) else value
    if field not in ("size", "crop_size"):
        return value
    if isinstance(value, FrozenMap):
        if field == "size" and set(value) == {"shortest_edge"}:
            return value["shortest_edge"]
        return (value["height"], value["width"]) if set(value) == {"height", "width"} else value
    if isinstance(value, tuple):  # Donut's first files have the width first
        turned = field == "size" and name == "DonutImageProcessor"
        return cast(tuple[Any, ...], value)[::-1] if turned else cast(tuple[Any, ...], value)
    is_edge = field == "size" and name == "CLIPImageProcessor"
    return value if is_edge or not isinstance(value, int) else (value, value)


def _height_width(size: Size) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
