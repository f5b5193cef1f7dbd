"""Images that the tests draw, of odd sizes: a photo would do as well, but must not be stored."""

import numpy as np
from PIL import Image

SIZES = ((37, 53), (61, 44), (224, 224), (19, 19), (301, 90), (7, 130))
"""Height and width: wide and tall, square, smaller and larger than what the processors make."""


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Waves of every direction and some noise, as bytes (Y, X, C)."""
    random = np.random.default_rng([seed, height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.sin(rows * random.uniform(0.02, 0.9) + columns * random.uniform(0.02, 0.9) + random.uniform(0, 6))
        for _ in range(channels)
    ]
    noise = random.normal(scale=20.0, size=(height, width, channels))
    return np.clip(np.stack(waves, -1) * 110 + 128 + noise, 0, 255).astype(np.uint8)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """A Pillow image in colour."""
    return Image.fromarray(pixels(height, width, seed=seed))


def page(height: int, width: int, *, margin: int = 11) -> Image.Image:
    """Dark writing on paper that is the lighter the farther away it is, for Nougat."""
    rows, columns = np.mgrid[:height, :width]
    inside = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    paper = np.repeat((235 - 8 * np.minimum(inside, margin))[..., None], 3, axis=2).astype(np.uint8)
    paper[margin:-margin, margin:-margin] = pixels(height - 2 * margin, width - 2 * margin) // 2
    return Image.fromarray(paper)
