"""Pictures of results, as arrays of shape (height, width, 3) in [0, 255].

Shapes: B examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

WHITE, BLACK, RIGHT, WRONG = (255, 255, 255), (0, 0, 0), (0, 120, 0), (200, 0, 0)
SQUARE, MARGIN = 36, 20  # pixels
WIDTH, LINE, COLUMNS = 64, 14, 8  # of an example, of a line of text in pixels; examples side by side


def confusion_picture(counts_CC: Tensor) -> np.ndarray:
    """Targets down, predictions across; a square holds its count, and is the darker the larger its share of the row."""
    classes = len(counts_CC)
    shares = counts_CC / counts_CC.sum(1, keepdim=True).clamp(min=1)
    side = MARGIN + SQUARE * classes
    picture = Image.new("RGB", (side, side), WHITE)
    draw = ImageDraw.Draw(picture)
    for label in range(classes):
        middle = MARGIN + SQUARE * label + SQUARE // 2
        draw.text((MARGIN // 2, middle), str(label), BLACK, anchor="mm")
        draw.text((middle, MARGIN // 2), str(label), BLACK, anchor="mm")
        for predicted in range(classes):
            share, count = float(shares[label, predicted]), int(counts_CC[label, predicted])
            left, top = MARGIN + SQUARE * predicted, MARGIN + SQUARE * label
            light = round(255 * (1 - share))
            draw.rectangle((left, top, left + SQUARE - 1, top + SQUARE - 1), (light, light, 255))
            if count:
                text = WHITE if share > 0.5 else BLACK
                draw.text((left + SQUARE // 2, top + SQUARE // 2), str(count), text, anchor="mm")
    return np.asarray(picture)


def examples_picture(images: Tensor, targets: Sequence[int], predictions: Sequence[int]) -> np.ndarray:
    """Images (B, height, width) in [0, 1] side by side; under each its label, in red also what was taken for it."""
    rows = -(-len(images) // COLUMNS)
    picture = Image.new("RGB", (WIDTH * COLUMNS, (WIDTH + LINE) * rows), WHITE)
    draw = ImageDraw.Draw(picture)
    for index, (image, target, predicted) in enumerate(zip(images, targets, predictions, strict=True)):
        left, top = WIDTH * (index % COLUMNS), (WIDTH + LINE) * (index // COLUMNS)
        grey = Image.fromarray((image * 255).round().byte().cpu().numpy())
        picture.paste(grey.resize((WIDTH - 2, WIDTH - 2), Image.Resampling.NEAREST), (left + 1, top + 1))
        right = target == predicted
        words = str(target) if right else f"{target} read as {predicted}"
        draw.text((left + WIDTH // 2, top + WIDTH), words, RIGHT if right else WRONG, anchor="mt")
    return np.asarray(picture)
