import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.processing.image_config import ImageProcessorConfig

HALF = [0.5, 0.5, 0.5]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# as they were published, in the spelling of their day
CLIP = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3,
    "size": 224,
}  # fmt: skip
VIT = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": HALF,
    "image_processor_type": "ViTFeatureExtractor", "image_std": HALF, "resample": 2, "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}  # fmt: skip
TROCR = {
    "do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor", "image_mean": HALF,
    "image_std": HALF, "resample": 2, "size": 384,
}  # fmt: skip
DONUT = {
    "do_align_long_axis": False, "do_normalize": True, "do_pad": True, "do_resize": True, "do_thumbnail": True,
    "feature_extractor_type": "DonutFeatureExtractor", "image_mean": HALF, "image_std": HALF,
    "processor_class": "DonutProcessor", "resample": 2, "size": [1920, 2560],
}  # fmt: skip
FAST = {
    "crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None,
    "disable_grouping": None, "do_center_crop": None, "do_convert_rgb": None, "do_normalize": True, "do_rescale": True,
    "do_resize": True, "image_mean": HALF, "image_processor_type": "ViTImageProcessorFast", "image_std": HALF,
    "input_data_format": None, "resample": 2, "rescale_factor": 1 / 255, "return_tensors": None,
    "size": {"height": 224, "width": 224},
}  # fmt: skip


@pytest.mark.parametrize(
    ("published", "name", "size", "crop"),
    [
        (CLIP, "CLIPImageProcessor", 224, (224, 224)),
        (VIT, "ViTImageProcessor", (224, 224), None),
        (TROCR, "ViTImageProcessor", (384, 384), None),
        (DONUT, "DonutImageProcessor", (2560, 1920), None),
        (FAST, "ViTImageProcessor", (224, 224), None),
        ({"image_processor_type": "DeiTImageProcessor", "size": 438, "crop_size": 384},
         "DeiTImageProcessor", (438, 438), (384, 384)),
        ({"image_processor_type": "ViTImageProcessorPil", "size": [30, 50]}, "ViTImageProcessor", (30, 50), None),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}}, "CLIPImageProcessor", 336,
         (224, 224)),
    ],
)  # fmt: skip
def test_every_spelling_is_read_and_the_present_one_written(published, name, size, crop):
    config = ImageProcessorConfig.from_dict(published)
    assert (config.image_processor_type, config.size) == (name, size)
    assert (config.crop_size if config.do_center_crop else None) == crop
    written = json.loads(config.to_json())
    assert written["image_processor_type"] == name and "feature_extractor_type" not in written
    assert set(written["size"]) in ({"shortest_edge"}, {"height", "width"})
    assert ImageProcessorConfig.from_dict(written) == config
    assert ImageProcessorConfig.from_dict(written).to_json() == config.to_json()
    assert written.get("processor_class") == published.get("processor_class")


def test_null_stands_for_a_default_and_a_number_for_every_channel():
    grey = {"image_mean": [0.25], "image_std": [0.5]}
    config = ImageProcessorConfig.from_dict(CLIP | {"do_center_crop": None} | grey)
    assert config.do_center_crop and (config.channels, config.image_mean) == (1, (0.25,))
    assert ImageProcessorConfig.of_type("ViTImageProcessor", image_mean=0.25).image_mean == (0.25,) * 3


def test_a_call_may_change_fields_in_any_spelling():
    config = ImageProcessorConfig.from_dict(VIT)
    assert config.replace(size=30).size == (30, 30)
    assert config.replace(size={"shortest_edge": 30}, do_convert_rgb=True).size == 30
    with pytest.raises(ConfigError, match=r"^ViTImageProcessor has no field colour, width; it knows crop_size, "):
        config.replace(width=3, colour=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": None}, "here: names no image_processor_type; known: BeitImageProcessor, CLIP"),
        ({"image_processor_type": "SamImageProcessor"},
         "here: image_processor_type='SamImageProcessor' is not known; known: BeitImageProcessor, "),
        ({"colour": 1, "offset": True}, "here: ViTImageProcessor does not know colour, offset; it knows crop_size, "),
        ({"data_format": "channels_last"},
         "here: data_format='channels_last' is not supported; supported: None, 'channels_first'"),
        ({"do_pad": True}, "here: ImageProcessorConfig: do_pad=True is not supported by ViTImageProcessor"),
        ({"do_resize": 1, "resample": "2"},
         "here: ImageProcessorConfig: resample='2' must be int; do_resize=1 must be bool"),
        ({"size": {"longest_edge": 3}}, "here: ImageProcessorConfig: size={'longest_edge': 3} must be tuple[int, int]"),
        ({"size": 0}, "here: ImageProcessorConfig: size=(0, 0), crop_size=(224, 224) must lie between 1 and 65536"),
        ({"resample": 6}, "here: ImageProcessorConfig: resample=6 must be one of 0 (nearest), 1 (Lanczos), 2 (bil"),
        ({"image_mean": [0.5, 0.5]}, "here: ImageProcessorConfig: image_mean=[0.5, 0.5], image_std=[0.5, 0.5, 0.5] mu"),
        ({"image_std": [0.5, 0, 0.5]}, "here: ImageProcessorConfig: image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0"),
        ({"image_processor_type": "DonutImageProcessor", "size": {"shortest_edge": 9}},
         "here: ImageProcessorConfig: size=9, but DonutImageProcessor needs a height and a width"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(values, message):
    with pytest.raises(ConfigError) as caught:
        ImageProcessorConfig.from_dict(VIT | values, source="here")
    assert str(caught.value).startswith(message)


def test_unknown_fields_may_be_carried_along():
    config = ImageProcessorConfig.from_dict(VIT | {"colour": 1}, ignore=["colour"])
    assert config.to_dict()["colour"] == 1 and config == ImageProcessorConfig.from_dict(VIT)
    with pytest.raises(ConfigError, match=r"pass ignore_config=\('colour',\)$"):
        ImageProcessorConfig.from_dict(VIT | {"colour": 1})
