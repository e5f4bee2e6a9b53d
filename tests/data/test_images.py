"""Pictures in folders and arrays: layouts, sizes, colours, the cache, and files that are damaged or not pictures."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rheostat.data import pictures
from rheostat.data.base import Form, Kind
from rheostat.data.images import ImageEncoder, image_arrays, is_image_folder, is_pictures, read_images
from rheostat.data.pictures import decode
from rheostat.data.split import split
from rheostat.errors import DataError, SettingError

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (60, 10, 12)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (60, 10, 12, 3)).astype(np.uint8)
Y = np.arange(60) % 3
NAMES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """The cache lies in the working folder."""
    monkeypatch.chdir(tmp_path)


def saved(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def filled(folder, x=GREY, y=Y, names=NAMES, suffix=".png"):
    for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
        saved(Path(folder) / names[label] / f"{number:03}{suffix}", pixels)
    return Path(folder)


def in_order(x, y=Y, classes=3):
    """As the reader comes by them: class after class."""
    return np.concatenate([x[y == label] for label in range(classes)]), np.sort(y, kind="stable")


# -- layouts -------------------------------------------------------------------------------------------------


def test_a_folder_per_class():
    folder = filled("animals")
    assert is_image_folder(folder)
    data = read_images(folder)
    x, y = in_order(GREY)
    train, validation = split(60, 0.2, 0, y)
    assert (data.name, data.form, data.kind, data.classes) == ("animals", Form.IMAGES, Kind.CLASSIFICATION, NAMES)
    for (images, classes), rows in ((data.train, train), (data.validation, validation)):
        assert images.dtype == torch.uint8 and classes.dtype == torch.int64 and images.is_contiguous()
        assert np.array_equal(images.numpy(), x[rows][:, None]) and classes.tolist() == y[rows].tolist()
    assert data.test is None and (data.inputs, data.outputs) == (120, 3)
    assert data.means == pytest.approx((x[train].mean(),)) and data.scales == pytest.approx((x[train].std(),))
    assert data.encoder == ImageEncoder(data.encoder.labels, (1, 10, 12), data.means, data.scales)
    assert "animals: 60 pictures of 10 x 12 pixels, as they are." in data.notes
    assert "Pictures of 10 x 12 pixels, grey." in data.notes


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", None)]
)
def test_folders_for_the_parts(names):
    slices = (slice(0, 40), slice(40, 50), slice(50, 60))
    for name, rows in zip(names, slices, strict=True):
        if name:
            filled(f"animals/{name}", COLOUR[rows], Y[rows])
    data = read_images(Path("animals"))
    for part, name, rows in zip((data.train, data.validation, data.test), names, slices, strict=True):
        if name is None:
            assert part is None
            continue
        x, y = in_order(COLOUR[rows], Y[rows])
        assert np.array_equal(part[0].numpy(), x.transpose(0, 3, 1, 2)) and part[1].tolist() == y.tolist()
    part = COLOUR[:40].reshape(-1, 3)
    assert data.means == pytest.approx(part.mean(0)) and data.scales == pytest.approx(part.std(0))
    assert any("40 pictures to train on and 10 to validate on, as given" in note for note in data.notes)


def test_what_lies_beside_the_parts_is_left_out():
    filled("animals/train"), filled("animals/labels", GREY[:2], Y[:2])
    Path("animals/read.me").write_text("about")
    data = read_images(Path("animals"))
    assert data.classes == NAMES and data.test is None
    assert "animals: what lies beside train is left out: labels, read.me." in data.notes


def test_a_class_may_be_called_train():
    filled("vehicles", names=("train", "car", "test"))
    assert read_images(Path("vehicles")).classes == ("car", "test", "train")


def test_another_folder_to_test_on():
    filled("animals", GREY[:40], Y[:40])
    filled("more", GREY[40:], Y[40:])
    filled("parts/train", GREY[:6], Y[:6]), filled("parts/test", GREY[6:9], Y[6:9])
    x, y = in_order(GREY[40:], Y[40:])
    data = read_images(Path("animals"), Path("more"))
    assert np.array_equal(data.test[0].numpy(), x[:, None]) and data.test[1].tolist() == y.tolist()
    assert len(data.train[0]) + len(data.validation[0]) == 40
    assert data.fingerprint != read_images(Path("animals")).fingerprint
    assert len(read_images(Path("animals"), Path("parts")).test[0]) == 3


def test_classes_that_are_numbers_are_in_their_order():
    filled("digits", names=("10", "9", "2"))
    assert read_images(Path("digits")).classes == ("2", "9", "10")


def test_the_split_follows_its_arguments():
    filled("animals")
    assert len(read_images(Path("animals"), validation_fraction=0.5).validation[0]) == 30
    assert not torch.equal(read_images(Path("animals"), seed=1).train[0], read_images(Path("animals"), seed=2).train[0])
    with pytest.raises(SettingError, match="validation_fraction=0"):
        read_images(Path("animals"), validation_fraction=0)


def test_every_kind_of_picture_whatever_the_case_of_its_name():
    for number in range(60):
        suffix = (".jpg", ".JPEG", ".png", ".Bmp", ".gif", ".webp")[number % 6]
        saved(Path("animals") / NAMES[number // 20] / f"{number:03}{suffix}", COLOUR[number])
    data = read_images(Path("animals"))
    assert len(data.train[0]) + len(data.validation[0]) == 60 and data.train[0].shape[1:] == (3, 10, 12)


def test_what_is_left_out_is_said():
    filled("animals")
    Path("animals/empty/deeper").mkdir(parents=True)
    Path("animals/.hidden").mkdir()
    saved(Path("animals/.hidden/no.png"), GREY[0])
    saved(Path("animals/loose.png"), GREY[0])
    saved(Path("animals/cat/deeper/most.png"), GREY[0])
    saved(Path("animals/cat/._000.png"), GREY[0])
    Path("animals/.DS_Store").write_bytes(b"x")
    Path("animals/dog/notes.txt").write_text("about")
    saved(Path("animals/lonely/one.png"), GREY[0])
    data = read_images(Path("animals"))
    assert len(data.train[0]) + len(data.validation[0]) == 62
    assert data.classes == ("cat", "dog", "lonely", "owl")
    assert data.classes.index("lonely") in data.train[1] and data.classes.index("lonely") not in data.validation[1]
    notes = "\n".join(data.notes)
    for words in (
        "1 folders without a picture are left out: empty.",
        "1 pictures that lie in no class folder are left out: loose.png.",
        "3 hidden files and others that are no pictures are left out: .DS_Store, cat/._000.png, dog/notes.txt.",
        "1 pictures in folders within a class folder belong to that class: cat/deeper/most.png.",
        "1 classes have one row only; they are trained on and not validated.",
    ):
        assert words in notes


def test_links_and_odd_names():
    filled("animals")
    Path("animals/cat").rename("elsewhere")
    Path("animals/cat").symlink_to(Path("elsewhere").resolve())
    Path("elsewhere/around").symlink_to(Path("animals").resolve())  # a circle, which is not followed
    odd = Path(os.fsdecode(b"animals/o\xff\xfel"))
    try:
        Path("animals/owl").rename(odd)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    data = read_images(Path("animals"))
    assert data.classes == ("cat", "dog", "o\ufffd\ufffdl") and len(data.train[0]) + len(data.validation[0]) == 60
    json.dumps(data.encoder.describe()).encode()


# -- sizes and colours ---------------------------------------------------------------------------------------


def sized(*sizes):
    """A folder of two classes with pictures of these heights and widths, in turns."""
    for number in range(12):
        height, width = sizes[number % len(sizes)]
        pixels = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
        saved(Path("sized") / "ab"[number % 2] / f"{number:02}.png", pixels)
    return Path("sized")


@pytest.mark.parametrize(
    ("sizes", "size", "shape", "words"),
    [
        ([(20, 30)], None, (20, 30), "20 x 30 pixels, as they are"),
        ([(64, 64)], None, (64, 64), "64 x 64 pixels, as they are"),
        ([(20, 30), (30, 20)], None, (20, 20), "from different sizes by resizing.*median shorter side is 20"),
        ([(10, 90), (31, 17), (40, 50)], None, (17, 17), "median shorter side is 17"),
        ([(80, 65)], None, (64, 64), "from 80 x 65 by resizing.*median shorter side is 65, the limits are 8 and 64"),
        ([(5, 6)], None, (8, 8), "median shorter side is 5"),
        ([(20, 30)], 10, (10, 10), r"10 x 10 pixels, from 20 x 30 by resizing and cutting the ends off \(as asked for"),
        ([(20, 30)], 100, (100, 100), "100 x 100"),
    ],
)
def test_the_common_size(sizes, size, shape, words):
    data = read_images(sized(*sizes), size=size)
    assert data.train[0].shape[2:] == shape == data.validation[0].shape[2:]
    assert any(re.search(words, note) for note in data.notes), data.notes


@pytest.mark.parametrize("size", [0, 7, -1, 3.5, True, "64"])
def test_sizes_that_are_not_allowed(size):
    with pytest.raises(SettingError, match="size=.*whole number of pixels from 8"):
        read_images(sized((9, 9)), size=size)


def one(path, shape=(3, 8, 8)):
    """The picture of a file, (C, H, W)."""
    decoded = decode(path.parent, [Path(path.name)], shape=shape)
    assert decoded.problems == ()
    return decoded.images[0]


def test_the_ends_are_cut_off_and_the_centre_stays():
    pixels = np.zeros((16, 64, 3), np.uint8)
    pixels[:, 24:40] = 200  # the middle square
    for name, each in (("wide.png", pixels), ("tall.png", pixels.transpose(1, 0, 2))):
        assert np.abs(one(saved(Path(name), each)).astype(int) - 200).max() < 20  # the edge knows what was cut off


def test_shrinking_averages():
    fine = np.indices((64, 64)).sum(0) % 2 * 255  # a chess board
    small = one(saved(Path("fine.png"), fine.astype(np.uint8)), (1, 8, 8))
    assert np.abs(small.astype(int) - 127).max() <= 2


SQUARES = np.kron(RNG.integers(0, 2, (4, 4, 3)) * 255, np.ones((16, 16, 1))).astype(np.uint8)  # (64, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_how_the_camera_was_held(orientation, suffix):
    stored = {  # what a camera that is held so stores of the scene (EXIF 2.3, figure of tag 274)
        1: SQUARES,
        2: SQUARES[:, ::-1],
        3: SQUARES[::-1, ::-1],
        4: SQUARES[::-1],
        5: SQUARES.transpose(1, 0, 2),
        6: SQUARES.transpose(1, 0, 2)[::-1],
        7: SQUARES.transpose(1, 0, 2)[::-1, ::-1],
        8: SQUARES.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Path("held" + suffix), np.ascontiguousarray(stored), exif=exif, quality=95)
    seen = one(path, (3, 64, 64))
    assert np.abs(seen.astype(int) - SQUARES.transpose(2, 0, 1)).mean() < 20  # a JPEG is not exact


def test_pictures_that_are_turned_are_measured_as_they_are_seen():
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(12):
        turned = number % 2
        pixels = RNG.integers(0, 256, (30, 20, 3) if turned else (20, 30, 3)).astype(np.uint8)
        saved(Path("held") / "ab"[number % 4 // 2] / f"{number}.png", pixels, exif=exif if turned else Image.Exif())
    assert read_images(Path("held")).train[0].shape[1:] == (3, 20, 30)


def test_damaged_notes_of_a_camera_do_not_matter():
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Path("held.jpg"), SQUARES, exif=exif)
    content = path.read_bytes()
    assert content.count(b"II*\0") + content.count(b"MM\0*") == 1
    path.write_bytes(content.replace(b"II*\0", b"XX*\0").replace(b"MM\0*", b"XX\0*"))
    assert np.abs(one(path, (3, 64, 64)).astype(int) - SQUARES.transpose(2, 0, 1)).mean() < 20


def test_what_is_transparent_becomes_white():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = [10, 20, 30, 255]
    pixels[4:, :4] = [0, 0, 0, 128]
    expected = np.full((8, 8, 3), 255)
    expected[:4], expected[4:, :4] = [10, 20, 30], 127
    for name in ("a.png", "a.webp"):
        seen = one(saved(Path(name), pixels, lossless=True))
        assert np.abs(seen.transpose(1, 2, 0).astype(int) - expected).max() <= 1
    grey = saved(Path("la.png"), np.dstack([pixels[..., 0], pixels[..., 3]]))
    assert (
        np.abs(one(grey, (1, 8, 8))[0].astype(int) - np.where(expected[..., 2] == 30, 10, expected[..., 2])).max() <= 1
    )


def test_palettes_with_and_without_transparency():
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 32).reshape(8, 8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.save("plain.png"), image.save("clear.png", transparency=0), image.save("clear.gif", transparency=0)
    assert one(Path("plain.png"))[:, 0, 0].tolist() == [10, 20, 30] and one(Path("plain.png"))[:, 7, 0].tolist() == [
        200,
        100,
        0,
    ]
    for name in ("clear.png", "clear.gif"):
        assert one(Path(name))[:, 0, 0].tolist() == [255] * 3 and one(Path(name))[:, 7, 0].tolist() == [200, 100, 0]


def test_black_and_white_sixteen_bits_and_print_colours():
    stripes = np.repeat(np.array([0, 1], bool), 32).reshape(8, 8)
    assert one(saved(Path("bits.png"), stripes), (1, 8, 8))[0, :, 0].tolist() == [0] * 4 + [255] * 4
    deep = np.repeat(np.array([0x1234, 0xFEDC], np.uint16), 32).reshape(8, 8)
    assert one(saved(Path("deep.png"), deep), (1, 8, 8))[0, :, 0].tolist() == [0x12] * 4 + [0xFE] * 4
    assert one(saved(Path("deep.png"), deep))[:, 0, 0].tolist() == [0x12] * 3
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save("print.jpg")
    red, green, blue = one(Path("print.jpg"))[:, 4, 4].tolist()
    assert red > 200 and green < 60 and blue < 60


def test_of_an_animation_the_first_picture_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(name, save_all=True, append_images=frames[1:], lossless=True)
        assert one(Path(name))[:, 0, 0].tolist() == [255, 0, 0]


def test_a_name_may_lie_about_the_kind_of_picture():
    saved(Path("really.png"), SQUARES).rename("named.jpg")
    assert np.array_equal(one(Path("named.jpg"), (3, 64, 64)), SQUARES.transpose(2, 0, 1))


def test_grey_pictures_stored_in_colour_are_grey_and_one_in_colour_makes_all_so():
    in_colour = np.repeat(GREY[..., None], 3, axis=3)
    data = read_images(filled("animals", in_colour))
    assert (
        data.train[0].shape == (48, 1, 10, 12) and data.fingerprint == read_images(filled("grey/animals")).fingerprint
    )
    saved(Path("animals/cat/000.png"), COLOUR[0])
    coloured = read_images(Path("animals"))
    assert coloured.train[0].shape == (48, 3, 10, 12) and "Pictures of 10 x 12 pixels, in colour." in coloured.notes


def test_other_parts_look_as_the_training_part_does():
    filled("animals/train"), filled("animals/test", COLOUR[:6, :9, :9], Y[:6])
    data = read_images(Path("animals"))
    assert data.test[0].shape == (6, 1, 10, 12)
    assert data.means == pytest.approx((GREY[split(60, 0.2, 0, np.sort(Y))[0]].mean(),), rel=0.1)


# -- files that cannot be read -------------------------------------------------------------------------------


def bomb(width=60_000, height=60_000):
    """A PNG that says it is very large."""
    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    data = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data)) + b"IDAT" + data
        + struct.pack(">I", zlib.crc32(b"IDAT" + data)) + struct.pack(">I", 0) + b"IEND\xaeB`\x82"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (bomb(), "more than 100,000,000 pixels, which may be meant to fill the memory"),
        (bomb(11_000, 10_000), "more than 100,000,000 pixels"),
        (None, "truncated"),
    ],
)
def test_a_broken_picture_is_named_and_left_out(content, words):
    filled("animals", COLOUR)
    path = Path("animals/dog/004.png")
    buffer = io.BytesIO()
    Image.fromarray(COLOUR[4]).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-100] if content is None else content)
    data = read_images(Path("animals"))
    assert len(data.train[0]) + len(data.validation[0]) == 59
    note = next(note for note in data.notes if "cannot be read" in note)
    assert "1 of 60 pictures cannot be read and are left out: animals/dog/004.png (" in note and words in note
    keep = np.arange(60) != 4
    x, y = in_order(COLOUR[keep], Y[keep])
    assert data.train[1].tolist() == y[split(59, 0.2, 0, y)[0]].tolist()
    assert np.array_equal(data.train[0].numpy(), x[split(59, 0.2, 0, y)[0]].transpose(0, 3, 1, 2))


def test_many_broken_pictures_are_refused():
    filled("animals")
    for number in (4, 7, 10, 13):
        Path(f"animals/dog/{number:03}.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"4 of 60 pictures cannot be read: animals/dog/004.png \(empty\), .* and 1 more"
    ):
        read_images(Path("animals"))
    Path("animals/dog/004.png").unlink(), Path("animals/dog/007.png").unlink()
    with pytest.raises(DataError, match="2 of 58 .* Up to 1 would be left out"):
        read_images(Path("animals"))


def test_a_link_that_leads_nowhere_is_a_broken_picture():
    filled("animals")
    Path("animals/dog/link.png").symlink_to("nowhere.png")
    assert any("dog/link.png (No such file" in note for note in read_images(Path("animals")).notes)


def test_a_class_whose_only_picture_is_broken():
    filled("animals")
    Path("animals/yak").mkdir()
    Path("animals/yak/a.png").write_bytes(b"")
    assert read_images(Path("animals")).classes == NAMES


def encoded(form, mode):
    buffer = io.BytesIO()
    Image.fromarray(SQUARES[::3, ::3]).convert(mode).save(buffer, form)
    return buffer.getvalue()


WHOLE = [
    encoded(f, m)
    for f, m in (("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "L"), ("BMP", "RGB"), ("WEBP", "RGB"))
]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 5000) | st.none(),
)
def test_any_damage_is_read_or_named(tmp_path_factory, content, changes, end):
    changed = bytearray(content)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    path.write_bytes(changed[: end if end is None else end % len(changed)])
    decoded = decode(path.parent, [Path(path.name)])
    if decoded.problems:
        assert decoded.problems[0].startswith("fuzz.png (") and not decoded.kept[0] and len(decoded.images) == 0
    else:
        assert decoded.images.shape[0] == 1 and decoded.kept[0]


KINDS_OF_FILE = ("{}.png", "in/{}.PNG", "{}.jpg", "{}.txt", ".{}.png", "bad{}.png", "")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(KINDS_OF_FILE)), max_size=18))
def test_any_folder_is_read_or_refused_in_words(tmp_path_factory, entries):
    root = tmp_path_factory.mktemp("any")
    expected, broken = [], 0
    for number, (name, kind) in enumerate(entries):
        (root / name).mkdir(exist_ok=True)
        path = root / name / kind.format(number)
        if kind.startswith("bad") or kind.endswith(".txt"):
            path.write_bytes(b"?")
            broken += kind.startswith("bad")
        elif kind:
            saved(path, GREY[number])
            expected += [name] * (not kind.startswith("."))
    enough = len(expected) >= 10 and len(set(expected)) >= 2
    try:
        data = read_images(root)
    except DataError as error:
        assert broken > 1 or not enough
        assert str(error).endswith(".")
    else:
        assert broken <= 1 and enough
        classes = [data.classes[code] for code in torch.cat([data.train[1], data.validation[1]])]
        assert sorted(classes) == sorted(expected)


# -- what is refused -----------------------------------------------------------------------------------------


def test_folders_that_cannot_be_trained_on():
    with pytest.raises(DataError, match="There is no folder absent"):
        read_images(Path("absent"))
    Path("empty").mkdir()
    with pytest.raises(DataError, match="empty has no class folders with pictures.*one folder for each class"):
        read_images(Path("empty"))
    saved(Path("flat/a.png"), GREY[0])
    with pytest.raises(DataError, match="flat has no class folders.*1 pictures that lie in no class folder.*a.png"):
        read_images(Path("flat"))
    filled("single", y=Y * 0)
    with pytest.raises(DataError, match="one class folder with pictures, 'cat': there must be two"):
        read_images(Path("single"))
    filled("few", GREY[:8], Y[:8])
    with pytest.raises(DataError, match="8 labelled rows are too few"):
        read_images(Path("few"))
    filled("names", y=np.arange(60), names=[f"n{i}" for i in range(60)])
    with pytest.raises(DataError, match="60 pictures in 60 class folders: give two for each"):
        read_images(Path("names"))
    filled("untrained/test")
    with pytest.raises(DataError, match="has a folder test, but none to train on"):
        read_images(Path("untrained"))
    filled("twice/val"), filled("twice/valid"), filled("twice/train")
    with pytest.raises(DataError, match="both val and valid may be meant for validation"):
        read_images(Path("twice"))
    filled("new/train"), filled("new/test", names=("cat", "dog", "old"))
    with pytest.raises(DataError, match="new/test: Unknown class folder 'old'.*Did you mean 'owl'"):
        read_images(Path("new"))


def test_folders_that_are_not_of_images():
    Path("texts/pos").mkdir(parents=True)
    Path("texts/pos/a.txt").write_text("good")
    saved(Path("texts/.cache/a.png"), GREY[0])
    assert not is_image_folder(Path("texts")) and not is_image_folder(Path("absent"))
    assert not is_image_folder(saved(Path("one.png"), GREY[0]))
    saved(Path("texts/figure.png"), GREY[0])
    assert is_image_folder(Path("texts"))  # half of them
    Path("texts/pos/b.txt").write_text("bad")
    assert not is_image_folder(Path("texts"))


def test_a_folder_that_may_not_be_read(monkeypatch):
    filled("animals")

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        list(pictures.walk(Path("animals/cat")))


def test_without_pillow(monkeypatch):
    filled("animals")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"Pillow is needed: pip install 'rheostat\[images\]'"):
        read_images(Path("animals"))


def test_more_pictures_than_the_memory_holds(monkeypatch):
    filled("animals")
    free = pictures.psutil.virtual_memory()._replace(available=20_000)
    monkeypatch.setattr(pictures.psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match="60 pictures of 360 bytes need .* GB of memory.*give a smaller size"):
        read_images(Path("animals"))


# -- the cache -----------------------------------------------------------------------------------------------


@pytest.fixture
def decodings(monkeypatch):
    """How many files were decoded each time."""
    seen = []

    def counted(folder, files, *arguments, **more):
        seen.append(len(files))
        return decode(folder, files, *arguments, **more)

    monkeypatch.setattr(pictures, "decode", counted)
    return seen


def same(one, other):
    assert torch.equal(one.train[0], other.train[0]) and torch.equal(one.train[1], other.train[1])
    assert (one.notes, one.fingerprint, one.encoder) == (other.notes, other.fingerprint, other.encoder)
    return True


def kept():
    return sorted(Path(".rheostat/cache").iterdir())


def test_pictures_are_decoded_once(decodings):
    filled("animals"), filled("test", COLOUR[:6], Y[:6])
    Path("animals/dog/bad.png").write_bytes(b"")
    first = read_images(Path("animals"), Path("test"))
    assert decodings == [61, 6] and len(kept()) == 2 and {path.suffix for path in kept()} == {".safetensors"}
    assert same(read_images(Path("animals"), Path("test")), first) and len(decodings) == 2
    read_images(Path("animals"), seed=3, validation_fraction=0.5)
    assert len(decodings) == 2
    read_images(Path("animals"), size=9)
    assert len(decodings) == 3


def test_a_change_is_seen(decodings):
    filled("animals")
    before = read_images(Path("animals"))
    path = Path("animals/cat/000.png")
    status = path.stat()
    saved(path, 255 - GREY[0])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    after = read_images(Path("animals"))
    assert len(decodings) == 2 and before.fingerprint != after.fingerprint
    path.rename("animals/cat/00.png")
    read_images(Path("animals"))
    shutil.copytree("animals", "copy/animals")  # with the same times
    assert read_images(Path("copy/animals")).fingerprint == after.fingerprint
    assert len(decodings) == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "head", "foreign", "folder"])
def test_a_damaged_cache_is_made_anew(decodings, damage):
    filled("animals")
    first = read_images(Path("animals"))
    (path,) = kept()
    content = path.read_bytes()
    if damage == "foreign":
        save_file({"images": np.zeros((60, 1, 10, 12), np.uint8)}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        path.write_bytes({"empty": b"", "cut": content[:-1], "bit": flipped, "head": b"\xff" * 8 + content[8:]}[damage])
    again = read_images(Path("animals"))
    assert torch.equal(first.train[0], again.train[0]) and len(decodings) == 2
    if damage != "folder":  # which cannot be replaced, and is left as it is
        assert kept() == [path] and path.stat().st_size == len(content)
        assert same(read_images(Path("animals")), first) and len(decodings) == 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_any_damage_to_the_cache_is_noticed(tmp_path_factory, place, byte, cut):
    root = tmp_path_factory.getbasetemp() / "cache-fuzz"
    if not root.exists():
        filled(root, GREY[:12], Y[:12])
    files = [path.relative_to(root) for path in sorted(root.rglob("*.png"))]
    expected = decode(root, files)
    shutil.rmtree(".rheostat", ignore_errors=True)
    pictures.cached(root, files)
    (path,) = kept()
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content[: place % len(content)] if cut else content)
    again, _ = pictures.cached(root, files)
    assert np.array_equal(again.images, expected.images) and np.array_equal(again.kept, expected.kept)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_does_not_stop_the_reading(monkeypatch, code):
    filled("animals")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"a part")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pictures, "save_file", full)
    data = read_images(Path("animals"))
    assert len(data.train[0]) == 48 and kept() == []
    assert any("could not be kept in .rheostat/cache" in n and os.strerror(code) in n for n in data.notes)


def test_a_place_for_the_cache_that_is_taken():
    filled("animals")
    Path(".rheostat").write_text("a file")
    assert any("could not be kept" in note for note in read_images(Path("animals")).notes)


# -- arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((60, 10, 12), (60, 1, 10, 12)),
        ((60, 10, 12, 1), (60, 1, 10, 12)),
        ((60, 1, 10, 12), (60, 1, 10, 12)),
        ((60, 10, 12, 3), (60, 3, 10, 12)),
        ((60, 3, 10, 12), (60, 3, 10, 12)),
        ((60, 8, 8), (60, 1, 8, 8)),
    ],
)
def test_arrays_of_bytes(shape, first):
    x = RNG.integers(0, 256, shape).astype(np.uint8)
    assert is_pictures(x)
    parts = {"train": (x[:40], Y[:40]), "test": (x[40:], Y[40:])}
    data = image_arrays("bytes", parts, NAMES, notes=["read by hand"])
    last = x if len(shape) == 4 and shape[1] in (1, 3) else np.moveaxis(x.reshape(*shape[:3], -1), 3, 1)
    assert last.shape == first
    train, validation = split(40, 0.2, 0, Y[:40])
    assert np.array_equal(data.train[0].numpy(), last[train]) and data.train[1].tolist() == Y[train].tolist()
    assert np.array_equal(data.validation[0].numpy(), last[validation])
    assert np.array_equal(data.test[0].numpy(), last[40:]) and data.test[1].tolist() == Y[40:].tolist()
    assert data.means == pytest.approx(last[train].mean((0, 2, 3))) and data.scales == pytest.approx(
        last[train].std((0, 2, 3))
    )
    assert (data.form, data.classes, data.notes[0]) == (Form.IMAGES, NAMES, "read by hand")
    for tensor in (data.train[0], data.validation[0], data.test[0]):
        assert tensor.is_contiguous() and tensor.dtype == torch.uint8


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((9, 28, 28)),
        np.zeros((9, 28, 28), np.int64),
        np.zeros((9, 28, 28), bool),
        np.zeros((9, 784), np.uint8),
        np.zeros((9, 28, 4), np.uint8),
        np.zeros((9, 7, 28), np.uint8),
        np.zeros((9, 28, 28, 2), np.uint8),
        np.zeros((9, 4, 28, 28), np.uint8),
        np.zeros((9, 3, 28, 3), np.uint8),
        np.zeros((9, 1, 1, 28, 28), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures(x):
    assert not is_pictures(x)
    with pytest.raises(DataError, match="data, train: it holds .* Pictures are bytes"):
        image_arrays("data", {"train": (x, Y[:9])}, NAMES)


def test_parts_that_are_given_are_kept_and_must_fit():
    parts = {"train": (GREY[:40], Y[:40]), "validation": (GREY[40:], Y[40:])}
    data = image_arrays("bytes", parts, NAMES)
    assert np.array_equal(data.validation[0][:, 0].numpy(), GREY[40:]) and len(data.train[0]) == 40
    with pytest.raises(DataError, match=r"bytes, test: its pictures have the shape \(9, 12\); .* \(10, 12\)"):
        image_arrays("bytes", parts | {"test": (GREY[:, :9], Y)}, NAMES)
    with pytest.raises(DataError, match="same label"):
        image_arrays("bytes", parts | {"train": (GREY[:40], Y[:40] * 0)}, NAMES)


def test_a_channel_that_does_not_vary():
    x = COLOUR.copy()
    x[..., 1] = 7
    data = image_arrays("bytes", {"train": (x, Y)}, NAMES)
    assert data.means[1] == 7.0 and data.scales[1] == 1.0


def test_arrays_are_not_changed_and_may_be_read_only():
    x = GREY.copy()
    x.flags.writeable = False
    data = image_arrays("bytes", {"train": (x, Y), "validation": (x, Y)}, NAMES)
    data.train[0].zero_()
    assert np.array_equal(x, GREY)


def test_the_fingerprint_is_that_of_the_data():
    def of(x=GREY, y=Y, names=NAMES, **more):
        return image_arrays("bytes", {"train": (x, y)}, names, **more).fingerprint

    changed = GREY.copy()
    changed[17, 2, 3] ^= 1
    prints = [
        of(),
        of(changed),
        of(y=(Y + 1) % 3),
        of(names=("a", "b", "c")),
        of(np.ascontiguousarray(GREY.swapaxes(1, 2))),
    ]
    assert len(set(prints)) == 5 and of(seed=4) == of() == of(y=Y.astype(np.uint8))


# -- the encoder ---------------------------------------------------------------------------------------------


def test_new_pictures_become_what_training_had():
    data = read_images(filled("animals", COLOUR))
    new = filled("new", COLOUR[:6], Y[:6])
    x, _ = in_order(COLOUR[:6], Y[:6])
    encode = data.encoder.encode
    assert np.array_equal(encode(new).numpy(), x.transpose(0, 3, 1, 2)) and encode(new).dtype == torch.uint8
    assert np.array_equal(encode(new / "cat" / "000.png")[0].numpy(), COLOUR[0].transpose(2, 0, 1))
    larger = saved(Path("larger.jpg"), np.repeat(np.repeat(COLOUR[0], 4, 0), 4, 1))
    assert encode(larger).shape == (1, 3, 10, 12)
    grey = encode(saved(Path("grey.png"), GREY[0]))
    assert np.array_equal(grey[0].numpy(), np.repeat(GREY[0][None], 3, 0))
    np.savez("new.npz", x=COLOUR[:6]), np.savez("first.npz", inputs=COLOUR[:6].transpose(0, 3, 1, 2))
    for name in ("new.npz", "first.npz"):
        assert np.array_equal(encode(Path(name)).numpy(), COLOUR[:6].transpose(0, 3, 1, 2))


def test_idx_files_can_be_encoded():
    encoder = image_arrays("bytes", {"train": (GREY, Y)}, NAMES).encoder
    Path("new-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + struct.pack(">3I", 6, 10, 12) + GREY[:6].tobytes())
    assert np.array_equal(encoder.encode(Path("new-images-idx3-ubyte")).numpy(), GREY[:6, None])


def test_what_cannot_be_encoded():
    encoder = image_arrays("bytes", {"train": (GREY, Y)}, NAMES).encoder
    np.savez("wrong.npz", x=GREY[:, :9]), np.savez("floats.npz", x=GREY / 255), np.savez("none.npz", y=Y)
    Path("notes.txt").write_text("about")
    Path("bare").mkdir()
    filled("broken", GREY[:9], Y[:9])
    Path("broken/cat/000.png").write_bytes(b"")
    for name, words in (
        ("wrong.npz", r"uint8 of shape \(60, 9, 12\); pictures are bytes \(1, 10, 12\)"),
        ("floats.npz", "holds float64"),
        ("none.npz", "no array 'x'"),
        ("notes.txt", "notes.txt: give a picture .*, a folder of them, an IDX file or .npz"),
        ("absent.png", "There is no file or folder absent.png"),
        ("bare", "bare holds no pictures"),
        ("broken", r"broken: cat/000.png \(empty\) cannot be read"),
    ):
        with pytest.raises(DataError, match=words):
            encoder.encode(Path(name))


def test_the_encoder_survives_json():
    encoder = image_arrays("bytes", {"train": (COLOUR, Y)}, NAMES).encoder
    assert ImageEncoder.from_description(json.loads(json.dumps(encoder.describe()))) == encoder
    for wrong in ({"shape": [1, 2, 3]}, {**encoder.describe(), "shape": [1, 2]}):
        with pytest.raises(DataError, match="not the description"):
            ImageEncoder.from_description(wrong)
