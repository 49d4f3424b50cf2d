"""Thumbnails of what people upload: tasks, so that no loop waits for them and each core can make one."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps, UnidentifiedImageError

import actorfw

SIZE = (360, 270)
LARGEST = 8 << 20
"""Bytes of an upload."""

PIXELS = 50_000_000
PREFIX = "data:image/jpeg;base64,"


@actorfw.remote(timeout=30)
def thumbnail(picture: bytes) -> str:
    """A small JPEG of a picture, as a data URL.

    Raises:
        ValueError: it is none, or too large.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"the picture has {image.width} x {image.height} pixels: too many")
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("this is no picture that could be read") from error
    small.thumbnail(SIZE)
    made = io.BytesIO()
    small.save(made, "JPEG", quality=75, optimize=True)
    return PREFIX + base64.b64encode(made.getvalue()).decode()
