"""The picture of groups of near-duplicates, as PNG."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

_SIDE = 96
_GAP = 4
_CAPTION = 14  # pixels above each line


def draw_groups(lines: Sequence[Sequence[bytes]], captions: Sequence[str]) -> bytes:
    """Returns a PNG: a line of thumbnails (JPEG or PNG; one that can't be read is left out) for each group."""
    columns = max(len(line) for line in lines)
    step = _SIDE + _GAP
    picture = Image.new("RGB", (_GAP + columns * step, len(lines) * (step + _CAPTION) + _GAP), "white")
    draw = ImageDraw.Draw(picture)
    for row, (line, caption) in enumerate(zip(lines, captions, strict=True)):
        top = _GAP + row * (step + _CAPTION)
        # The built-in font knows no other letters.
        draw.text((_GAP, top), caption.encode("ascii", "replace").decode(), fill="black")
        for column, data in enumerate(line):
            try:
                with Image.open(io.BytesIO(data)) as image:
                    shown = image.convert("RGB")
            except OSError:
                continue
            scale = _SIDE / max(shown.size)
            # A digit of 28 pixels is shown as it is, only larger.
            how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
            shown = shown.resize((max(1, round(shown.width * scale)), max(1, round(shown.height * scale))), how)
            picture.paste(shown, (_GAP + column * step, top + _CAPTION))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
