"""Draws the pictures of `docs/samples/labelled` that are no photos: `.venv/bin/python -m scripts.sample_photos`.

They are made up, so that the sample has pictures of people and documents without any person in it. Beside them lie
links to the two photos of `docs/samples`.
"""

import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.categories import Category
from app.config.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "docs" / "samples" / "labelled"
WIDTH, HEIGHT = 640, 480
QUALITY = 80
PHOTOS = {Category.PETS: "cat.jpg", Category.FOODS: "coffee.jpg"}

SKIN, HAIR, PAPER, INK = "#e3b18c", "#3a2a1f", "#f4f1e6", "#26323b"


def landscape(chance: random.Random, *, at_sea: bool) -> Image.Image:
    """Hills in the haze under an evening sky, or the sea."""
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT):
        draw.line((0, y, WIDTH, y), (90 + y // 4, 130 + y // 5, 205 - y // 8))
    draw.ellipse((430, 90, 490, 150), "#ffe9b0")
    for layer in range(3 if at_sea else 5):
        heights = [220 + 55 * layer]
        while len(heights) <= WIDTH // 4:
            heights.append(heights[-1] + chance.randint(-5, 5))
        shade = (70 - 9 * layer, 105 - 12 * layer, 120 - 20 * layer)
        draw.polygon([(0, HEIGHT), *((4 * x, y) for x, y in enumerate(heights)), (WIDTH, HEIGHT)], shade)
    if at_sea:
        draw.rectangle((0, 330, WIDTH, HEIGHT), "#2f6690")
        for _ in range(500):
            x, y = chance.randrange(WIDTH), chance.randrange(332, HEIGHT)
            draw.line((x, y, x + chance.randint(4, 30), y), (90, 150, 190))
    return picture.filter(ImageFilter.GaussianBlur(1.2))


def screen(lines: list[str], *, is_chat: bool) -> Image.Image:
    """What a phone shows: a chat, or a list."""
    picture = Image.new("RGB", (360, 720), "#eef0f3")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 360, 24), INK)
    draw.text((10, 5), "10:24", "white", _font(13))
    draw.text((305, 5), "87 %", "white", _font(13))
    draw.rectangle((0, 24, 360, 74), "#2b6cb0")
    draw.text((16, 38), "Lunch" if is_chat else "Settings", "white", _font(20))
    for number, line in enumerate(lines):
        top = 92 + 62 * number
        if is_chat:
            left = 16 if number % 2 else 110
            draw.rounded_rectangle((left, top, left + 234, top + 48), 14, "white" if number % 2 else "#c6f0c2")
            draw.text((left + 14, top + 15), line, INK, _font(15))
        else:
            draw.rectangle((0, top, 360, top + 60), "white")
            draw.text((20, top + 20), line, INK, _font(17))
            draw.rounded_rectangle((296, top + 20, 336, top + 42), 11, "#34a853" if number % 3 else "#b7bcc4")
    return picture


def card(name: str, number: str) -> Image.Image:
    """A document of a person who does not exist, of a country that does not exist."""
    picture = Image.new("RGB", (640, 404), PAPER)
    draw = ImageDraw.Draw(picture)
    for y in range(0, 404, 6):
        draw.line((0, y, 640, 404 - y), "#dfe7ea")
    draw.rectangle((0, 0, 640, 56), "#24527a")
    draw.text((20, 14), "UTOPIA   IDENTITY CARD   SPECIMEN", "white", _font(24))
    picture.paste(_head(140, 180, "#cfd8dc"), (30, 84))
    for row, (label, value) in enumerate(
        (("Name", name), ("Date of birth", "01.01.1990"), ("Nationality", "UTO"), ("Card no.", number))
    ):
        draw.text((200, 84 + 48 * row), label, "#5f6b73", _font(13))
        draw.text((200, 100 + 48 * row), value, INK, _font(20))
    draw.rectangle((0, 300, 640, 404), "white")
    for row, line in enumerate((f"I<UTO{number}<<<<<<<<<<<<<<<", "9001011F3001019UTO<<<<<<<<<<<4")):
        draw.text((20, 318 + 36 * row), line[:30], "black", _font(22, mono=True))
    return picture


def people(count: int) -> Image.Image:
    """So many people in a room, as a child would draw them."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "#d8cbb5")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 380, WIDTH, HEIGHT), "#8d6e52")
    size = 150 if count > 1 else 260
    for number in range(count):
        centre = WIDTH * (2 * number + 1) // (2 * count)
        shirt = ("#b23a48", "#2a6f97", "#588157", "#e09f3e")[number % 4]
        draw.rounded_rectangle((centre - size // 2, 120 + size, centre + size // 2, HEIGHT + 40), size // 4, shirt)
        picture.paste(_head(size * 4 // 5, size, "#d8cbb5"), (centre - size * 2 // 5, 110))
    return picture.filter(ImageFilter.GaussianBlur(0.8))


def receipt() -> Image.Image:
    """A till's receipt."""
    picture = Image.new("RGB", (360, 560), "#fbfaf7")
    draw = ImageDraw.Draw(picture)
    goods = ("Paper 80 g", "Glue", "Tape 19 mm", "Pencil HB", "Folder A4")
    draw.text((100, 24), "STATIONERY", INK, _font(22, mono=True))
    for row, name in enumerate(goods):
        draw.text((24, 90 + 44 * row), f"{name:<16}{1.2 + row * 0.75:>7.2f}", INK, _font(17, mono=True))
    draw.text((24, 360), f"{'TOTAL':<16}{13.5:>7.2f}", INK, _font(19, mono=True))
    for x in range(40, 320, 5):
        draw.rectangle((x, 440, x + x * 7 % 4, 510), INK)
    return picture


def chart() -> Image.Image:
    """A diagram on paper."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((170, 20), "Rainfall by month, mm", INK, _font(24))
    for month, value in enumerate((52, 41, 60, 48, 77, 90, 101, 88, 64, 59, 55, 50)):
        draw.rectangle((60 + 45 * month, 430 - 3 * value, 92 + 45 * month, 430), "#4c78a8")
    draw.line((50, 70, 50, 430, 610, 430), INK, 2)
    return picture


def pictures() -> dict[str, Callable[[], Image.Image]]:
    """Return what is drawn, by its file in the folder."""
    chat = ["Where are you?", "On the bus, ten minutes", "Shall I order?", "Noodles, please", "And tea?", "Yes!"]
    return {
        f"{Category.TRAVEL_SCENERY}/hills.jpg": lambda: landscape(random.Random(3), at_sea=False),
        f"{Category.TRAVEL_SCENERY}/sea.jpg": lambda: landscape(random.Random(5), at_sea=True),
        f"{Category.SCREENSHOT}/chat.jpg": lambda: screen(chat, is_chat=True),
        f"{Category.SCREENSHOT}/settings.jpg": lambda: screen(
            ["Wi-Fi", "Bluetooth", "Mobile data", "Sound", "Display", "Battery", "Storage"], is_chat=False
        ),
        f"{Category.IDCARD}/specimen-1.jpg": lambda: card("SAMPLE ANNA", "X0000001"),
        f"{Category.IDCARD}/specimen-2.jpg": lambda: card("MUSTER JAN", "X0000002"),
        f"{Category.SINGLE_PERSON}/person.jpg": lambda: people(1),
        f"{Category.SOCIAL_ACTIVITIES}/group.jpg": lambda: people(4),
        f"{Category.OTHER}/receipt.jpg": receipt,
        f"{Category.OTHER}/chart.jpg": chart,
    }


def main() -> None:
    """Draw all pictures, and link the photos."""
    for name, draw in pictures().items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draw().save(file, "JPEG", quality=QUALITY)
    for category, photo in PHOTOS.items():
        link = FOLDER / category / photo
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../..") / photo)


def _head(width: int, height: int, background: str) -> Image.Image:
    picture = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((0, 0, width - 1, height - 1), HAIR)
    draw.ellipse((width * 0.1, height * 0.14, width * 0.9, height * 0.98), SKIN)
    for side in (0.33, 0.67):
        x, y, r = width * side, height * 0.5, width * 0.05
        draw.ellipse((x - r, y - r, x + r, y + r), INK)
    draw.line((width * 0.5, height * 0.52, width * 0.47, height * 0.66, width * 0.53, height * 0.66), "#b98560", 3)
    draw.arc((width * 0.32, height * 0.62, width * 0.68, height * 0.84), 20, 160, "#9b3d3d", 4)
    return picture


def _font(size: int, *, mono: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    name = "DejaVuSansMono.ttf" if mono else "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
