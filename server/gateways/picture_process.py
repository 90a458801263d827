"""Makes one picture anew, in a process of its own that may do little: ``picture_process.py FILE TYPE WIDTH HEIGHT``.

What decodes a stranger's bytes is a lot of C. It runs here with bounded memory, time and files, without the server's secrets in
its environment, and is killed when it takes too long. Only pixels get from the old file into the new one: turned as the picture
says, cut and scaled to one size, as WebP. Whatever else the file held is gone.

It is run by its path, and imports nothing of ours, so that it begins soon. It ends with 0, or with `REFUSED`.
"""

from __future__ import annotations

import io
import resource
import sys

from PIL import ExifTags, Image, ImageOps

REFUSED = 65
MOST_PIXELS = 40_000_000
MOST_MEMORY = 1 << 30
MOST_WRITTEN = 1 << 24
MOST_SECONDS = 5
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/gif": "GIF"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


def bound() -> None:
    """Give away what is not needed."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_WRITTEN, MOST_WRITTEN))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def remake(path: str, media_type: str, size: tuple[int, int]) -> None:
    """Make the picture in a file anew, in its place."""
    with Image.open(path, formats=(FORMATS[media_type],)) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError("too many pixels")
        opened.draft("RGB", size)
        picture: Image.Image = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
    times = min(picture.width, picture.height) // max(size)
    if times > 1:  # first in one cheap step, so that a large picture is not copied again and again
        picture = picture.reduce(times)
    if orientation in TURNS:
        picture = picture.transpose(TURNS[orientation])
    made = io.BytesIO()
    ImageOps.fit(picture, size, Image.Resampling.LANCZOS).save(made, "WEBP", quality=80)
    with open(path, "wb") as file:  # noqa: PTH123 - one import less
        file.write(made.getbuffer())


if __name__ == "__main__":
    bound()
    try:
        remake(sys.argv[1], sys.argv[2], (int(sys.argv[3]), int(sys.argv[4])))
    except Exception:  # noqa: BLE001 - whatever a decoder raises says the same
        sys.exit(REFUSED)
