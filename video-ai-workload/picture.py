"""Pictures as decoders and encoders have them: three planes, YUV 4:2:0, in a PyAV frame."""

from __future__ import annotations

from functools import cache

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

PIXELS = "yuv420p"  # 8 bits, limited range: what most videos have, and what players know
COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")  # how planes are meant
RGB, BT709, BT470, BT601, BT2020 = 0, 1, 5, 6, 9  # colour spaces, by FFmpeg's numbers
# The weights of red and blue in Y.
LUMA = {BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}
LUMA |= dict.fromkeys((BT470, BT601), (0.299, 0.114))


def standard(decoded: av.VideoFrame) -> av.VideoFrame:
    """The frame in PIXELS: itself where it is, which must not be drawn on, as decoders refer to it.

    YUV keeps its colour space; RGB becomes ITU-R BT.601.
    """
    if decoded.format.name == PIXELS and decoded.color_range != ColorRange.JPEG:
        return decoded
    space = Colorspace.ITU601 if decoded.colorspace == RGB else None
    limited = {"dst_colorspace": space, "dst_color_range": ColorRange.MPEG}
    return decoded.reformat(format=PIXELS, **limited, threads=1)


def colours(picture: av.VideoFrame) -> dict[str, int]:
    """What COLOURS are, for an encoder; nothing where the space is none that all encoders know."""
    known = picture.colorspace in LUMA
    return {name: getattr(picture, name) for name in COLOURS} if known else {}


def planes(picture: av.VideoFrame) -> list[np.ndarray]:
    """Views of a picture's Y, U and V: uint8 [H, W], and twice [H / 2, W / 2], rounded up."""
    views = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
        views.append(rows[:: -1 if plane.line_size < 0 else 1, : plane.width])
    return views


def copied(picture: av.VideoFrame, quarters: int = 0) -> av.VideoFrame:
    """A copy that may be drawn on, turned counter-clockwise by so many quarters.

    It has the picture's colours and nothing else of it, such as the type an encoder would repeat.
    """
    sides = (picture.width, picture.height)[:: -1 if quarters % 2 else 1]
    copy = av.VideoFrame(*sides, PIXELS)
    for name in COLOURS:
        setattr(copy, name, getattr(picture, name))
    for source, target in zip(planes(picture), planes(copy)):
        target[:] = np.rot90(source, quarters)
    return copy


def write_rgb(picture: av.VideoFrame, target: np.ndarray) -> None:
    """Write the picture, scaled linearly, into uint8 [H, W, 3], a part of a larger one."""
    size = target.shape[1::-1]
    scaled = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in planes(picture)]
    cv2.transform(cv2.merge(scaled), rgb_matrix(picture.colorspace), dst=target)


@cache
def yuv(colour: tuple[int, int, int], colorspace: int) -> list[int]:
    """Y, U and V of an RGB colour."""
    matrix = rgb_matrix(colorspace)
    return np.linalg.solve(matrix[:, :3], colour - matrix[:, 3]).round().astype(int).tolist()


@cache
def rgb_matrix(colorspace: int) -> np.ndarray:
    """What makes RGB of (Y, U, V, 1) in limited range, float32 [3, 4].

    `colorspace`: FFmpeg's number; one that LUMA has not is taken for BT.601.
    """
    red, blue = LUMA.get(colorspace, LUMA[BT601])
    green = 1 - red - blue
    y, u, v = 255 / 219, (1 - blue) * 255 / 112, (1 - red) * 255 / 112
    matrix = np.array([[y, 0, v], [y, -u * blue / green, -v * red / green], [y, u, 0]])
    return np.column_stack([matrix, -matrix @ [16, 128, 128]]).astype(np.float32)
