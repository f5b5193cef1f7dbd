import numpy as np
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from diptych.core.interfaces import AudioProcessor, ImageProcessor


def test_an_image_processor_of_transformers_fits_as_it_is():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    assert isinstance(processor, ImageProcessor)
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    made = processor.preprocess([image, image], return_tensors="np")
    assert processor.model_input_names[0] == "pixel_values"
    assert made["pixel_values"].shape == (2, 3, 12, 12)


def test_a_feature_extractor_of_transformers_fits_as_it_is():
    processor = Wav2Vec2FeatureExtractor()
    assert isinstance(processor, AudioProcessor)
    made = processor(np.sin(np.arange(50.0)), sampling_rate=processor.sampling_rate, return_tensors="np")
    assert made[processor.model_input_names[0]].shape == (1, 50)
