"""Drive-thru scenes drawn from a seed: frames with the exact mask of every car and person in them.

A scene is a fixed camera over a pharmacy's drive-thru. Cars queue in two lanes and stop for the
pick-up window, people walk by; what is nearer hides what is farther. Everything is drawn at twice
the size and averaged down, so edges look like a camera's, and every object is drawn a second time,
in its own number, into a map of objects: that map is the ground truth.

Sizes are in design pixels of a 768 x 432 frame; `height` scales them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

PERSON, CAR = 0, 2  # COCO class indices
DESIGN_WIDTH, DESIGN_HEIGHT = 768, 432
SUPERSAMPLE = 2
MIN_VISIBLE_SHARE, MIN_AREA = 0.3, 150  # of an object, and pixels: with less it does not count


# Cars seen from the side, facing right: x along the length, y up, both in car lengths.
CARS = json.loads(Path(__file__).with_name("cars.json").read_text())
HEADLIGHT = ((0.955, 0.16), (0.955, 0.195), (0.995, 0.165), (0.995, 0.145))
TAIL_LIGHT = ((0.005, 0.17), (0.005, 0.2), (0.03, 0.2), (0.03, 0.17))
PAINTS = "ebebeb 19191c 8c8f94 a5191e 1e3c82 c8aa3c 285a3c 5f3c2d"


@dataclass
class Mover:
    """A car or a person on its way across the frame."""

    kind: int  # COCO class index
    x: float  # centre at t = 0, design pixels
    ground_y: float  # where it touches the ground, design pixels
    size: float  # a car's length or a person's height, design pixels
    speed: float  # design pixels/s; its sign is the direction
    pause_s: tuple[float, float] = (0.0, 0.0)  # stands still from .. to
    look: dict = field(default_factory=dict)

    def travelled_s(self, t_s: float) -> float:
        start, end = self.pause_s
        return t_s - min(max(t_s - start, 0.0), end - start)

    def x_at(self, t_s: float) -> float:
        return self.x + self.speed * self.travelled_s(t_s)

    def phase_at(self, t_s: float) -> float:
        """Of a person's steps, radians."""
        return self.look["phase"] + abs(self.speed) * self.travelled_s(t_s) * 8.0 / self.size


@dataclass
class Scene:
    background: np.ndarray  # uint8 [H * SUPERSAMPLE, W * SUPERSAMPLE, 3], RGB
    movers: list[Mover]  # farthest first
    scale: float  # output pixels per design pixel
    noise: float  # standard deviation of the camera's noise, grey levels


@dataclass
class Canvas:
    """Draws the same shape in colour into a picture and as a number into a map of objects."""

    picture: np.ndarray
    ids: np.ndarray
    scale: float

    def _draw(self, shape, *place, colour, number, style=()):
        for image, value in ((self.picture, colour), (self.ids, number)):
            if value is not None:
                shape(image, *place, value, *style)

    def _pixels(self, lengths) -> list[int]:
        return [int(round(length * self.scale)) for length in lengths]

    def polygon(self, points, colour, number=None):
        corners = np.round(np.asarray(points, np.float64) * self.scale).astype(np.int32)
        self._draw(cv2.fillPoly, [corners], colour=colour, number=number)

    def box(self, x0, y0, x1, y1, colour):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, centre, axes, colour, number=None):
        place = self._pixels(centre), [max(1, axis) for axis in self._pixels(axes)], 0, 0, 360
        self._draw(cv2.ellipse, *place, colour=colour, number=number, style=(-1,))

    def text(self, text, corner, size, colour):
        place, width = tuple(int(c * self.scale) for c in corner), max(1, int(2 * self.scale))
        font, size = cv2.FONT_HERSHEY_DUPLEX, size * self.scale
        cv2.putText(self.picture, text, place, font, size, colour, width, cv2.LINE_AA)

    def limb(self, start, end, width, colour, number=None):
        (width,) = self._pixels([width])
        ends, style = (self._pixels(start), self._pixels(end)), (max(1, width),)
        self._draw(cv2.line, *ends, colour=colour, number=number, style=style)


def _shade(colour, factor: float) -> tuple[int, int, int]:
    return tuple(int(min(255, max(0, c * factor))) for c in colour)


def _colour(rng: np.random.Generator, low, high) -> tuple[int, int, int]:
    return tuple(int(c) for c in rng.uniform(low, high, 3))


def _draw_car(canvas: Canvas, car: Mover, t_s: float, number: int) -> None:
    length, x, y, look = car.size, car.x_at(t_s), car.ground_y, car.look
    facing = 1 if car.speed >= 0 else -1

    def at(points):
        return [(x + facing * (px - 0.5) * length, y - py * length) for px, py in points]

    colour, outline = look["colour"], CARS[look["shape"]]["outline"]
    canvas.ellipse((x, y - 0.01 * length), (0.52 * length, 0.035 * length), (38, 38, 42))
    canvas.polygon(at(outline), colour, number)
    sill = [(px, min(py, 0.13)) for px, py in outline]
    canvas.polygon(at(sill), _shade(colour, 0.72))
    for window in CARS[look["shape"]]["windows"]:
        canvas.polygon(at(window), look["glass"])
    for door_x in look["doors"]:
        canvas.limb(*at([(door_x, 0.1), (door_x, 0.22)]), 0.006 * length, _shade(colour, 0.55))
    canvas.polygon(at(HEADLIGHT), (250, 240, 190))
    canvas.polygon(at(TAIL_LIGHT), (190, 25, 25))
    for wheel_x in (0.2, 0.79):
        (centre,) = at([(wheel_x, 0.072)])
        canvas.ellipse(centre, (0.072 * length, 0.072 * length), (25, 25, 27), number)
        canvas.ellipse(centre, (0.04 * length, 0.04 * length), look["rim"])


def _draw_person(canvas: Canvas, person: Mover, t_s: float, number: int) -> None:
    h, x, y, look = person.size, person.x_at(t_s), person.ground_y, person.look
    facing, half = np.sign(person.speed), 0.105 * look["build"]
    stride = 0.13 * np.sin(person.phase_at(t_s))

    def at(px, py):  # in heights, from the ground
        return x + px * h, y - py * h

    def limb(start, end, width, colour):
        canvas.limb(at(*start), at(*end), width * h, colour, number)

    def ellipse(centre, width, height, colour, number=number):
        canvas.ellipse(at(*centre), (width * h, height * h), colour, number)

    ellipse((0, 0), 0.16, 0.025, (50, 50, 52), number=None)  # shadow
    limb((0, 0.76), (1.1 * stride, 0.48), 0.065, _shade(look["top"], 0.7))
    for side in (-1, 1):
        legs = _shade(look["legs"], 0.85 if side < 0 else 1)
        limb((side * 0.025, 0.48), (side * stride, 0.02), 0.09, legs)
        ellipse((side * stride + 0.02 * facing, 0.015), 0.05, 0.022, (40, 32, 28))
    right = [(half, 0.8), (0.85 * half, 0.45)]
    left = [(-0.85 * half, 0.45), (-half, 0.8), (-0.5 * half, 0.83), (0.5 * half, 0.83)]
    canvas.polygon([at(*point) for point in right + left], look["top"], number)
    limb((0, 0.76), (-1.1 * stride, 0.48), 0.065, _shade(look["top"], 0.85))
    limb((0, 0.8), (0, 0.87), 0.06, look["skin"])
    ellipse((0, 0.915), 0.062, 0.08, look["skin"])
    ellipse((-0.01 * facing, 0.945), 0.066, 0.056, look["hair"])


def _draw_mover(canvas: Canvas, mover: Mover, t_s: float, number: int) -> None:
    (_draw_car if mover.kind == CAR else _draw_person)(canvas, mover, t_s, number)


def _background(rng: np.random.Generator, scale: float) -> np.ndarray:
    """The place without anyone in it: sky, trees, the pharmacy, two lanes, street furniture."""
    width, height = int(DESIGN_WIDTH * scale), int(DESIGN_HEIGHT * scale)
    sky = np.linspace(rng.uniform(150, 215), rng.uniform(200, 245), height)[:, None, None]
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = sky * np.array([0.88, 0.95, 1.0])
    canvas = Canvas(picture, np.zeros((height, width), np.uint8), scale)
    ground_y = 0.4 * DESIGN_HEIGHT + 35
    for _ in range(rng.integers(8, 22)):
        green = _shade((60, 105, 55), rng.uniform(0.6, 1.3))
        centre = rng.uniform(0, 768), rng.uniform(150, ground_y)
        canvas.ellipse(centre, (rng.uniform(15, 60), rng.uniform(15, 50)), green)
    asphalt = int(rng.integers(85, 135))
    canvas.box(0, ground_y, 768, 432, (asphalt, asphalt, asphalt + 3))
    pavement = _shade((190, 186, 178), rng.uniform(0.75, 1.1))
    canvas.box(0, ground_y, 768, ground_y + 22, pavement)
    canvas.box(0, ground_y + 22, 768, ground_y + 27, (150, 148, 143))  # kerb
    _pharmacy(canvas, rng, ground_y)
    _street(canvas, rng, ground_y)
    roughness, half = rng.uniform(1, 7), (height // 2 + 1, width // 2 + 1, 1)
    texture = rng.normal(0, roughness, half).astype(np.float32)
    texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.clip(picture + texture, 0, 255).astype(np.uint8)


def _pharmacy(canvas: Canvas, rng: np.random.Generator, ground_y: float) -> None:
    left = rng.uniform(-60, 380)
    right, top = left + rng.uniform(260, 460), rng.uniform(30, 90)
    wall = _colour(rng, [150, 130, 115], [235, 220, 205])
    canvas.box(left, top, right, ground_y, wall)
    for brick_y in np.arange(top + 10, ground_y, 12):
        canvas.limb((left, brick_y), (right, brick_y), 1, _shade(wall, 0.93))
    sign = _colour(rng, 20, 190)
    canvas.box(left + 20, top + 10, right - 20, top + 40, sign)
    canvas.text("PHARMACY", (left + 40, top + 33), 0.75, (245, 245, 245))
    window_x = rng.uniform(left + 50, right - 110)
    awning = _shade(sign, 0.8)
    canvas.box(window_x - 12, top + 52, window_x + 82, top + 60, awning)
    canvas.box(window_x, top + 62, window_x + 70, top + 108, (60, 78, 92))
    canvas.box(window_x + 4, top + 66, window_x + 33, top + 104, (120, 145, 160))
    door_x = rng.uniform(left + 15, right - 45)
    canvas.box(door_x, ground_y - 62, door_x + 28, ground_y, (80, 70, 62))


def _street(canvas: Canvas, rng: np.random.Generator, ground_y: float) -> None:
    """Dashed lines of two lanes, and bollards, bins, menu boards and poles."""
    for lane_y in (ground_y + 88, ground_y + 190):
        for dash_x in np.arange(rng.uniform(-60, 0), 768, 70):
            upper = [(dash_x, lane_y), (dash_x + 34, lane_y)]
            lower = [(dash_x + 30, lane_y + 4), (dash_x - 4, lane_y + 4)]
            canvas.polygon(upper + lower, (205, 200, 170))
    for _ in range(rng.integers(2, 9)):
        x, y = rng.uniform(0, 768), ground_y + rng.uniform(0, 26)
        tint = _colour(rng, 30, 230)
        w, h = [(4, 24), (16, 26), (34, 62), (3, 130)][rng.integers(4)]
        canvas.box(x, y - h, x + w, y, tint)
        if h == 62:
            canvas.box(x + 3, y - h + 4, x + w - 3, y - 26, (225, 225, 215))


def _car_look(rng: np.random.Generator) -> dict:
    paints = PAINTS.split()
    return {
        "shape": str(rng.choice(list(CARS))),
        "colour": _shade(bytes.fromhex(paints[rng.integers(len(paints))]), rng.uniform(0.8, 1.2)),
        "glass": _shade((70, 90, 108), rng.uniform(0.5, 1.5)),
        "rim": _shade((150, 150, 155), rng.uniform(0.5, 1.3)),
        "doors": (0.44,) if rng.random() < 0.3 else (0.31, 0.45, 0.62),
    }


def _person_look(rng: np.random.Generator) -> dict:
    return {
        "top": _colour(rng, 20, 235),
        "legs": _colour(rng, 20, 140),
        "skin": _shade((224, 180, 150), rng.uniform(0.4, 1.1)),
        "hair": _shade((120, 90, 60), rng.uniform(0.15, 1.6)),
        "build": rng.uniform(0.8, 1.3),
        "phase": rng.uniform(0, 2 * np.pi),
    }


def make_scene(rng: np.random.Generator, height: int = DESIGN_HEIGHT) -> Scene:
    """Draw a place and who moves through it in the next ten seconds or so: `rng` chooses all.

    `height` is that of the frames to be drawn, in pixels; their width is height * 16 / 9.
    """
    scale = height / DESIGN_HEIGHT
    movers = []
    for ground_y, base, direction in ((268, 150, -1), (352, 205, 1)):
        speed = direction * rng.uniform(55, 130)
        stop = rng.uniform(0.5, 5)
        # The whole lane stops, so that no cars collide.
        pause_s = (stop, stop + rng.uniform(0, 4))
        x = rng.uniform(-160, 100) if direction > 0 else rng.uniform(640, 900)
        for _ in range(rng.integers(0, 6)):
            size = base * rng.uniform(0.88, 1.15)
            x -= direction * size / 2
            y = ground_y + rng.uniform(-4, 4)
            movers.append(Mover(CAR, x, y, size, speed, pause_s, _car_look(rng)))
            x -= direction * (size / 2 + rng.uniform(12, 150))
    for _ in range(rng.integers(0, 7)):
        y = rng.uniform(214, 232) if rng.random() < 0.6 else rng.uniform(285, 420)
        size = (66 + (y - 214) * 0.42) * rng.uniform(0.88, 1.1)
        speed = rng.choice([-1, 1]) * rng.uniform(18, 60)
        movers.append(Mover(PERSON, rng.uniform(-60, 830), y, size, speed, look=_person_look(rng)))
    movers.sort(key=lambda m: m.ground_y)
    return Scene(_background(rng, scale * SUPERSAMPLE), movers, scale, rng.uniform(0, 5))


def draw(scene: Scene, t_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The scene at a moment: the frame, uint8 [H, W, 3], RGB, and the map of objects.

    The map, uint8 [H, W], is n where scene.movers[n - 1] is visible, 0 where nothing is.
    """
    picture = scene.background.copy()
    ids = np.zeros(picture.shape[:2], np.uint8)
    canvas = Canvas(picture, ids, scene.scale * SUPERSAMPLE)
    for number, mover in enumerate(scene.movers, start=1):
        _draw_mover(canvas, mover, t_s, number)
    height, width = (n // SUPERSAMPLE for n in ids.shape)
    frame = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if scene.noise:
        grain = rng.normal(0, scene.noise, (height, width, 1)).astype(np.float32)
        frame = np.clip(frame + grain, 0, 255).astype(np.uint8)
    return frame, ids[::SUPERSAMPLE, ::SUPERSAMPLE].copy()


def whole_area(scene: Scene, number: int, t_s: float) -> int:
    """Pixels that mover `number` would cover if nothing hid it and the frame did not end."""
    mover = scene.movers[number - 1]
    margin = int(mover.size)
    alone = Mover(mover.kind, margin, 2 * margin, mover.size, mover.speed, look=mover.look)
    if mover.kind == PERSON:  # the same step, seen at another place
        alone.look = {**mover.look, "phase": mover.phase_at(t_s)}
    side = int(margin * 2.2 * scene.scale) + 1
    ids = np.zeros((side, side), np.uint8)
    _draw_mover(Canvas(np.zeros((side, side, 3), np.uint8), ids, scene.scale), alone, 0.0, 1)
    return int(ids.sum())


def hardly_visible(scene: Scene, number: int, t_s: float, area: int) -> bool:
    """Whether so few pixels of mover `number` are visible that finding it does not count."""
    return area < MIN_AREA or area < MIN_VISIBLE_SHARE * whole_area(scene, number, t_s)


def clip(
    seed: int, num_frames: int, fps: float, height: int = DESIGN_HEIGHT
) -> Iterator[tuple[Scene, float, np.ndarray, np.ndarray]]:
    """A whole clip: (scene, time in s, frame, ids) of each frame, the same for the same seed."""
    rng = np.random.default_rng(seed)
    scene = make_scene(rng, height)
    for index in range(num_frames):
        t_s = index / fps
        yield scene, t_s, *draw(scene, t_s, rng)
