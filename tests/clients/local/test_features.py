"""Faces, cues, network input and head: the arithmetic of the local model."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.categories import Category
from app.clients.local.classes import IMAGENET_GROUPS, class_indices
from app.clients.local.cues import CUES, measure_cues
from app.clients.local.faces import (
    FACE_FEATURES,
    MAX_CANDIDATES,
    decode_faces,
    face_features,
    find_faces,
    suppress_overlaps,
)
from app.clients.local.features import (
    FEATURE_BLOCKS,
    LARGEST_EDGE,
    UnreadablePhoto,
    class_probabilities,
    group_log_probabilities,
    look_at,
    looked_at,
    network_input,
    open_photo,
)
from app.clients.local.head import HEAD_PATH, Head, HeadUnusable, load_head, save_head
from app.clients.local.network import load_networks

SIZES = [(1, 1), (2, 1), (1, 1024), (1024, 1), (3, 3), (16, 17), (257, 1024), (1024, 768)]


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_of_any_shape_have_finite_features(size: tuple[int, int], mode: str) -> None:
    picture = open_photo(jpeg(Image.new(mode, size, 200)))
    sight = look_at(load_networks(), picture)
    features = sight.features
    assert sight.classes.sum() == pytest.approx(1, abs=1e-4)
    assert features.shape == (sum(FEATURE_BLOCKS),)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    probabilities = load_head().probabilities(features[None])
    assert probabilities.shape == (1, 8)
    assert probabilities.sum() == pytest.approx(1)


def test_cues_of_a_flat_picture_and_of_noise_are_far_apart() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8))
    flat = dict(zip(CUES, measure_cues(Image.new("RGB", (300, 600), "white")), strict=True))
    noisy = dict(zip(CUES, measure_cues(noise), strict=True))
    assert flat["flat"] == flat["most_common_colour"] == flat["white"] == flat["no_noise"] == flat["phone_shape"] == 1
    assert flat["log_aspect"] == pytest.approx(np.log(2))
    assert noisy["flat"] < 0.01
    assert noisy["most_common_colour"] < 0.01
    assert noisy["no_noise"] < 0.05
    assert noisy["noise"] == 1
    assert not noisy["phone_shape"]


def test_network_input_is_scaled_as_the_network_was_trained() -> None:
    values = network_input(Image.new("RGB", (40, 30), (255, 127, 0)), (0, 0, 40, 30))
    assert values.shape == (1, 3, 260, 260)
    assert values[0, :, 0, 0] == pytest.approx([1.0, 0.0, -127 / 128])


@pytest.mark.parametrize(
    ("size", "ends"),
    [((40, 30), ((0, 0, 30, 30), (10, 0, 40, 30))), ((30, 40), ((0, 0, 30, 30), (0, 10, 30, 40))), ((9, 9), None)],
)
def test_the_network_sees_the_whole_and_both_ends(size: tuple[int, int], ends: tuple[tuple[int, ...], ...]) -> None:
    whole = (0, 0, *size)
    assert looked_at(Image.new("RGB", size)) == (whole, *(ends or (whole, whole)))


def test_indices_are_read() -> None:
    assert class_indices("1 87-90 3") == (1, 87, 88, 89, 90, 3)


def test_imagenet_groups_do_not_overlap() -> None:
    classes = [number for group in IMAGENET_GROUPS.values() for number in group]
    assert len(classes) == len(set(classes))
    assert min(classes) >= 0
    assert max(classes) < 1000


def test_group_probabilities_are_sums_of_the_softmax() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    logits[207] = 1000  # golden retriever; a plain exponential would overflow
    values = dict(zip(IMAGENET_GROUPS, group_log_probabilities(class_probabilities(logits)), strict=True))
    assert values["pets"] == pytest.approx(0, abs=1e-3)
    assert values["food"] == pytest.approx(np.log(1e-4))


def test_a_photo_larger_than_the_head_knows_is_shrunk() -> None:
    assert open_photo(jpeg(Image.new("RGB", (2000, 1500)))).size == (LARGEST_EDGE, 768)


def bomb() -> bytes:
    """A JPEG of 8 x 8 pixels whose header claims 65000 x 65000."""
    content = bytearray(jpeg(Image.new("RGB", (8, 8))))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", jpeg(Image.new("RGB", (4097, 1))), bomb()])
def test_what_is_not_a_prepared_photo_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadablePhoto):
        open_photo(content)


def test_a_png_is_not_a_prepared_photo() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(UnreadablePhoto):
        open_photo(buffer.getvalue())


def test_overlapping_boxes_keep_the_best() -> None:
    boxes = np.array(
        [
            [0.10, 0.10, 0.30, 0.30, 0.9],
            [0.11, 0.11, 0.31, 0.31, 0.8],  # nearly the same box
            [0.25, 0.25, 0.45, 0.45, 0.7],  # a corner shared: 3 % of the union
            [0.60, 0.60, 0.90, 0.90, 0.6],
        ],
        dtype=np.float32,
    )
    assert suppress_overlaps(boxes)[:, 4] == pytest.approx([0.9, 0.7, 0.6])
    assert suppress_overlaps(boxes[:0]).shape == (0, 5)


def test_a_detection_becomes_a_box() -> None:
    heat_map = np.zeros((10, 20), dtype=np.float32)
    heat_map[4, 12] = 0.75
    extents = np.zeros((2, 10, 20), dtype=np.float32)
    extents[:, 4, 12] = np.log([2, 4])
    offsets = np.zeros((2, 10, 20), dtype=np.float32)
    offsets[:, 4, 12] = [0.5, -0.5]
    assert decode_faces(heat_map, extents, offsets) == pytest.approx(
        np.array([[10 / 20, 4 / 10, 14 / 20, 6 / 10, 0.75]]), abs=1e-6
    )


def test_a_detector_gone_mad_costs_little() -> None:
    size = (160, 160)
    boxes = decode_faces(
        np.ones(size, np.float32), np.full((2, *size), 1e9, np.float32), np.zeros((2, *size), np.float32)
    )
    assert boxes.shape == (MAX_CANDIDATES, 5)
    assert np.isfinite(boxes).all()


def test_face_features_tell_none_one_and_a_group() -> None:
    def described(*boxes: list[float]) -> dict[str, float]:
        faces = np.array(boxes, dtype=np.float32).reshape(-1, 5)
        return dict(zip(FACE_FEATURES, face_features(faces).tolist(), strict=True))

    none, one = described(), described([0.4, 0.4, 0.6, 0.6, 0.9])
    crowd = described(*([0.2 * i, 0.1, 0.2 * i + 0.1, 0.2, 0.9] for i in range(4)))
    passer_by = described([0.2, 0.2, 0.8, 0.8, 0.9], [0.9, 0.1, 0.92, 0.12, 0.6])
    assert (none["none"], none["count"], none["largest"]) == (1, 0, 0)
    assert [one["one"], one["two_or_more"], one["off_centre"]] == pytest.approx([1, 0, 0], abs=1e-6)
    assert [crowd["four_or_more"], crowd["second_to_largest"]] == pytest.approx([1, 1], abs=1e-3)
    assert (passer_by["one"], passer_by["two_or_more"]) == (1, 0)


def test_no_face_is_found_where_there_is_none() -> None:
    assert find_faces(load_networks().faces, Image.new("RGB", (300, 200), "grey")).shape == (0, 5)


def a_head(seed: int = 0) -> Head:
    generator = np.random.default_rng(seed)
    return Head(generator.random((8, sum(FEATURE_BLOCKS)), np.float32), generator.random(8, np.float32))


def test_a_head_survives_being_saved_and_is_the_same_every_time(tmp_path: Path) -> None:
    head = a_head()
    save_head(head, tmp_path / "a.npz")
    save_head(head, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = load_head(tmp_path / "a.npz")
    features = np.random.default_rng(1).random((3, sum(FEATURE_BLOCKS)))
    assert read.probabilities(features) == pytest.approx(head.probabilities(features), abs=1e-5)
    assert read.version == head.version != a_head(1).version
    assert HEAD_PATH.stat().st_size < 120_000


def written(path: Path, **changes: object) -> Path:
    """A head's file with other arrays."""
    head = a_head()
    arrays: dict[str, Any] = {
        "categories": np.array([category.value for category in Category]),
        "blocks": np.array(FEATURE_BLOCKS),
        "weights": head.weights,
        "bias": head.bias,
        **changes,
    }
    np.savez(path, allow_pickle=True, **arrays)
    return path


def damaged(path: Path) -> bytes:
    """The file with an array whose header names more memory than there is."""
    array = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000000,)}".ljust(
        117
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("categories", "blocks", "weights", "bias"):
            archive.writestr(f"{name}.npy", array + b"\n")
    return path.read_bytes()


UNUSABLE: dict[str, Callable[[Path], object]] = {
    r"head.npz cannot be read \(No such file or directory\)": lambda path: path,
    r"head.npz cannot be read \(Is a directory\)": lambda path: path.mkdir(),
    "not a head": lambda path: path.write_bytes(b""),
    "is not a head": lambda path: path.write_bytes(b"no archive at all"),
    "head.npz is not": lambda path: path.write_bytes(HEAD_PATH.read_bytes()[:30_000]),
    "has written": lambda path: written(path, categories=np.array([object()])),
    "that `image-classifier train` has": lambda path: np.savez(path, weights=np.zeros(3)),
    "other categories": lambda path: written(path, categories=np.array(["cats", "dogs"])),
    "of another version": lambda path: written(path, blocks=np.array([1280, 7, 11, 16])),
    "train it again": lambda path: written(path, weights=np.zeros((8, 3), np.float32)),
    "else than numbers": lambda path: written(path, bias=np.full(8, np.nan, np.float32)),
    "holds something else": lambda path: written(path, bias=np.array(["a"] * 8)),
    "too large": lambda path: path.write_bytes(bytes(1_000_001)),
    "too large for": lambda path: np.savez_compressed(path, categories=np.zeros(1_000_000), weights=np.zeros(3)),
    "head.npz is not a": lambda path: path.write_bytes(damaged(written(path))),
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_file_that_is_no_head_is_refused_with_the_reason(tmp_path: Path, reason: str) -> None:
    UNUSABLE[reason](tmp_path / "head.npz")
    with pytest.raises(HeadUnusable, match=reason):
        load_head(tmp_path / "head.npz")


def test_large_scores_do_not_overflow() -> None:
    head = Head(np.arange(8.0)[:, None] * 1e4, np.zeros(8))
    assert head.probabilities(np.ones((1, 1)))[0, -1] == pytest.approx(1)
