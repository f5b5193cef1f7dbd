"""The sizes of images and patches in the configs of image encoders."""

from diptych.core import check
from diptych.core.config import ModelConfig, config_class
from diptych.core.errors import ConfigError

ImageSize = int | tuple[int, int]
"""In pixels: the side of a square, or (height, width)."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """A size as (height, width)."""
    return size if isinstance(size, tuple) else (size, size)


@config_class
class ImageEncoderConfig(ModelConfig):
    """The base of the configs of models that cut images into patches.

    Raises:
        ConfigError: a patch is larger than the images.
    """

    image_size: ImageSize = 224
    patch_size: ImageSize = 16
    num_channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "num_channels", "image_size")
        if any(not 1 <= patch <= image for patch, image in zip(self.patch_shape, self.image_shape, strict=True)):
            raise ConfigError(
                f"{type(self).__name__}: patch_size={self.patch_size} must lie between 1 and "
                f"image_size={self.image_size}"
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """The height and width of an image."""
        return height_and_width(self.image_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """The height and width of a patch."""
        return height_and_width(self.patch_size)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """The rows and columns of patches of an image of `image_size`."""
        return self.patch_grid_of(*self.image_shape)

    def patch_grid_of(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of whole patches of an image; what remains of it is not read."""
        return height // self.patch_shape[0], width // self.patch_shape[1]
