"""Pictures of all kinds come out as uint8 RGB."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.data import DataError, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def grey_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).expand(3, *pixels.shape)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def test_rgb(tmp_path):
    image = read_image(save(tmp_path / "a.png", RGB))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, as_tensor(RGB))
    assert torch.equal(read_image(str(tmp_path / "a.png")), image)


def test_greyscale(tmp_path):
    assert torch.equal(read_image(save(tmp_path / "a.png", GREY)), grey_tensor(GREY))


def test_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", GREY > 100)
    assert torch.equal(read_image(path), grey_tensor((GREY > 100) * np.uint8(255)))


def test_alpha_is_dropped(tmp_path):
    alpha = np.arange(48, dtype=np.uint8).reshape(6, 8, 1)
    path = save(tmp_path / "rgba.png", np.concatenate([RGB, alpha], axis=2))
    assert torch.equal(read_image(path), as_tensor(RGB))
    path = save(tmp_path / "la.png", np.concatenate([GREY[:, :, None], alpha], axis=2))
    assert torch.equal(read_image(path), grey_tensor(GREY))


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette(tmp_path, transparency, recwarn):
    colours = np.array([[10, 20, 30], [200, 100, 0], [0, 250, 90]], dtype=np.uint8)
    indices = (GREY % 3).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.flatten().tolist())
    assert picture.mode == "P"
    picture.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(colours[indices]))
    assert not recwarn.list


def test_cmyk(tmp_path):
    colour = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", colour, mode="CMYK", quality=100)
    assert Image.open(path).mode == "CMYK"
    difference = read_image(path).int() - as_tensor(colour).int()
    assert difference.abs().max() <= 6  # what JPEG loses; inverted inks would be far off


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [65535, 65406, 65407, 32896]], dtype=np.uint16)
    path = save(tmp_path / f"a.{suffix}", values)
    assert Image.open(path).mode.startswith("I")
    expected = np.array([[0, 0, 1, 1], [255, 254, 255, 128]], dtype=np.uint8)
    assert torch.equal(read_image(path), grey_tensor(expected))


def test_big_endian_16_bit(tmp_path):
    values = np.array([[0, 65535, 257, 514]], dtype=np.uint16)
    path = tmp_path / "a.pgm"  # stores 16 bits with the high byte first
    path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    assert read_image(path)[0].tolist() == [[0, 255, 1, 2]]


def test_more_than_16_bits_and_floating_point_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[70_000, 3]], dtype=np.int32))
    with pytest.raises(DataError, match=r"a\.tif: cannot read the image: integer pixels from 3 to 70000"):
        read_image(path)
    path = save(tmp_path / "b.tif", np.array([[0.5, 3]], dtype=np.float32))
    with pytest.raises(DataError, match=r"b\.tif: cannot read the image: floating-point pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", RGB, exif=exif)
    assert torch.equal(read_image(path), as_tensor(turn(RGB)))


def test_exif_orientation_of_16_bit(tmp_path):
    values = np.array([[0, 257, 514]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(save(tmp_path / "a.png", values, exif=exif))[0].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 3
    assert torch.equal(
        read_image(path), torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 6, 8)
    )


def test_result_has_memory_of_its_own(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    read_image(path).zero_()
    assert torch.equal(read_image(path), as_tensor(RGB))


# -------------------------------- bad files


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_no_picture(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: cannot read the image: "):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "gif"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot read the image: "):
            read_image(path)


def test_corrupt_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = bytearray(save(tmp_path / "a.png", noise).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot read the image: "):
        read_image(tmp_path / "a.png")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png: image file not found"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"cannot read the image: .*directory"):
        read_image(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"a\.png: cannot read the image: .*48 pixels"):
        read_image(path)
