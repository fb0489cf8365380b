"""Pictures as decoders and encoders have them: three planes, YUV 4:2:0, in a PyAV frame."""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

PIXELS = "yuv420p"  # 8 bits, limited range: what most videos have, and what players know
COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")  # how planes are meant
RGB = 0  # among FFmpeg's colour spaces


def standard(decoded: av.VideoFrame) -> av.VideoFrame:
    """The frame in PIXELS: itself where it is, which must not be drawn on, as decoders refer to it.

    YUV keeps its colour space; RGB becomes ITU-R BT.601.
    """
    if decoded.format.name == PIXELS and decoded.color_range != ColorRange.JPEG:
        return decoded
    space = Colorspace.ITU601 if decoded.colorspace == RGB else None
    limited = {"dst_colorspace": space, "dst_color_range": ColorRange.MPEG}
    return decoded.reformat(format=PIXELS, **limited, threads=1)


def planes(picture: av.VideoFrame) -> list[np.ndarray]:
    """Views of a picture's Y, U and V: uint8 [H, W], and twice [H / 2, W / 2], rounded up."""
    views = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
        views.append(rows[:: -1 if plane.line_size < 0 else 1, : plane.width])
    return views


def copied(picture: av.VideoFrame, quarters: int = 0) -> av.VideoFrame:
    """A copy that may be drawn on, turned counter-clockwise by so many quarters."""
    sides = (picture.width, picture.height)[:: -1 if quarters % 2 else 1]
    copy = _like(picture, *sides)
    for source, target in zip(planes(picture), planes(copy)):
        target[:] = np.rot90(source, quarters)
    return copy


def scaled(picture: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A picture of this size in pixels, interpolated linearly."""
    made = _like(picture, width, height)
    for source, target in zip(planes(picture), planes(made)):
        target[:] = cv2.resize(source, target.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return made


def _like(picture: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A picture of this size and of the same colours, its planes not yet written."""
    made = av.VideoFrame(width, height, PIXELS)
    for name in COLOURS:
        setattr(made, name, getattr(picture, name))
    return made
