"""Names of torchvision.io; there is no image decoder behind them."""

from enum import Enum


class ImageReadMode(Enum):
    UNCHANGED = 0
    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGB_ALPHA = 4


def decode_image(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("this CPU test server takes no images: torchvision is only a name here")


decode_jpeg = decode_image
