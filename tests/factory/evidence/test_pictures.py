import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.runtime.errors import UsageError
from factory.evidence.pictures import load_pictures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 8, 8, 3), np.uint8)
LABELS = np.repeat(np.arange(3), 10).astype(np.uint8)


def archive(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def jpegs(pixels: Any) -> dict[str, Any]:
    files = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    ends = np.cumsum([len(file) for file in files])
    return {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offsets": np.concatenate([[0], ends])}


def folder(path: Path, suffix: str = ".png") -> Path:
    for index, picture in enumerate(PIXELS):
        place = path / f"class {LABELS[index]}" / "deeper"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{index}{suffix}")
    return path


def refused(path: Path, *words: str, samples: int = 4) -> None:
    with pytest.raises(UsageError) as caught:
        load_pictures(path, samples, 8, 0)
    for word in (str(path), *words):
        assert word in str(caught.value)


def brightness_spectrum(pictures: torch.Tensor) -> list[float]:
    """Mean amplitude at 1, 2, 3 ... cycles a picture, of brightness faded out towards the borders."""
    grey = pictures.mean(1).numpy()
    fade = np.hanning(grey.shape[1])
    amplitude = np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * np.outer(fade, fade))).mean(0)
    cycles = np.hypot(*np.meshgrid(*[np.fft.fftfreq(grey.shape[1], 1 / grey.shape[1])] * 2))
    return [float(amplitude[np.abs(cycles - ring) < 0.5].mean()) for ring in range(1, 13)]


def test_made_pictures_are_normalised_and_the_same_for_one_seed() -> None:
    pictures = load_pictures(None, 8, 16, 3)
    assert pictures.shape == (8, 3, 16, 16)
    assert pictures.dtype == torch.float32
    torch.testing.assert_close(pictures.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pictures.std((0, 2, 3), correction=0), torch.ones(3))
    assert torch.equal(pictures, load_pictures(None, 8, 16, 3))
    assert not torch.equal(pictures, load_pictures(None, 8, 16, 4))


def test_made_pictures_have_the_spectrum_and_the_colours_of_photographs() -> None:
    pictures = load_pictures(None, 64, 32, 0)
    spectrum = brightness_spectrum(pictures)
    slope = np.polyfit(np.log(np.arange(3, 13)), np.log(spectrum[2:]), 1)[0]
    assert -1.8 < slope < -1.2
    colours = np.corrcoef(pictures.permute(1, 0, 2, 3).flatten(1).numpy())
    # of CIFAR-10: .90 between neighbours, .78 between red and blue
    assert 0.85 < colours[0, 1] < 0.95
    assert 0.85 < colours[1, 2] < 0.95
    assert 0.65 < colours[0, 2] < 0.85


def test_an_array_gives_its_own_pictures_with_classes_in_turn(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.npz", x_train=PIXELS, y_train=LABELS)
    pictures = load_pictures(path, 9, 8, 1)
    rows = []
    for picture in pictures:
        own = picture[0].flatten().numpy()
        scores = [np.corrcoef(own, red)[0, 1] for red in PIXELS[..., 0].reshape(len(PIXELS), -1)]  # normalised or not
        assert max(scores) == pytest.approx(1)
        rows.append(int(np.argmax(scores)))
    assert [int(LABELS[row]) for row in rows] == [0, 1, 2] * 3
    assert len(set(rows)) == 9
    assert torch.equal(pictures, load_pictures(path, 9, 8, 1))
    assert not torch.equal(pictures, load_pictures(path, 9, 8, 2))


def test_jpegs_in_an_archive_and_files_in_a_folder_are_decoded_and_resized(tmp_path: Path) -> None:
    packed = archive(tmp_path / "set.npz", **jpegs(PIXELS), y=LABELS)
    assert load_pictures(packed, 6, 16, 0).shape == (6, 3, 16, 16)
    files = folder(tmp_path / "files")
    pictures = load_pictures(files, 30, 8, 0)
    # every picture once: the mean over all channels and pixels is that of the set
    assert sorted(pictures.mean((1, 2, 3)).tolist()) == pytest.approx(
        sorted(((PIXELS - PIXELS.mean((0, 1, 2))) / PIXELS.std((0, 1, 2))).mean((1, 2, 3)).tolist()), abs=1e-5
    )


def test_grey_pictures_without_contrast_are_zeros_not_nan(tmp_path: Path) -> None:
    path = archive(tmp_path / "flat.npz", x_train=np.full((4, 8, 8, 3), 7, np.uint8))
    assert torch.equal(load_pictures(path, 4, 8, 0), torch.zeros(4, 3, 8, 8))


def test_wrong_files_are_refused_in_plain_words(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no pictures", "expected a folder of pictures")
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    refused(text, "cannot be read")
    np.save(tmp_path / "one.npy", PIXELS)
    refused(tmp_path / "one.npy", "cannot be read")
    refused(archive(tmp_path / "other.npz", weights=PIXELS), "holds no pictures", "weights")
    refused(archive(tmp_path / "float.npz", x_train=PIXELS / 255), "float64")
    refused(archive(tmp_path / "grey.npz", x_train=PIXELS[..., 0]), "(30, 8, 8)")
    refused(archive(tmp_path / "kind.npz", jpeg=PIXELS.ravel(), offsets=np.zeros(9)), "offsets float64")
    refused(archive(tmp_path / "pickled.npz", x_train=np.array([{}, {}], object)), "cannot be read")
    bad = jpegs(PIXELS) | {"jpeg": np.zeros(40_000, np.uint8)}
    refused(archive(tmp_path / "bad.npz", **bad), "picture", "cannot be used")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "too few pictures", "found 0")
    refused(archive(tmp_path / "few.npz", x_train=PIXELS[:3]), "too few pictures", "expected 4 or more")
