"""Speed of text generation with a reduced IDEFICS (hidden size 512, 8 layers, 75 million parameters; see
checkpoints.py): the first token, which needs the images and the prompt of 64 tokens, and greedy decoding of 32 tokens
with one and with four images. diptych in torch and in JAX against transformers 5 with its dynamic and its static cache.
Everything is measured as in bench_generation.py."""

from dataclasses import dataclass

import bench_generation
import checkpoints
import numpy as np

WORDS = checkpoints.IDEFICS["vocab_size"]
FAKE, IMAGE = WORDS, WORDS + 1
"""The additional tokens: around images, and for an image."""
SIZE, LENGTH = checkpoints.IDEFICS["vision_config"]["image_size"], 64


@dataclass(frozen=True, kw_only=True)
class IdeficsCase(bench_generation.Case):
    """A model of texts with images between them, and the number of images in a text."""

    images: int

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as the processor returns it, without padding: equally long texts, each after its image."""
        random = np.random.default_rng(batch)
        ids = random.integers(1000, WORDS, (batch, self.length))
        for first in range(1, self.length, self.length // self.images):
            ids[:, first : first + 3] = FAKE, IMAGE, FAKE
        last_image = np.cumsum(ids == IMAGE, axis=1) - 1
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "pixel_values": random.standard_normal((batch, self.images, 3, SIZE, SIZE), np.float32),
            "image_attention_mask": (last_image[..., None] == np.arange(self.images)).astype(int),
        }


CASES: dict[str, bench_generation.Case] = {
    name: IdeficsCase(
        "IdeficsForVisionText2Text",
        checkpoints.idefics,
        {"pad_token_id": 0},
        LENGTH,
        "model.",
        "lm_head.weight",
        images=images,
    )
    for name, images in (("one image", 1), ("four images", 4))
}


if __name__ == "__main__":
    here = [name for name, (environment, _) in bench_generation.CONTESTANTS.items() if environment == "here"]
    bench_generation.main(__doc__, CASES, models=list(CASES), batches=[1, 4], contestants=here)
