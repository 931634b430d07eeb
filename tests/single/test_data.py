"""What examples read: sktime's series, CIFAR-10's files, ImageNet's folders. No Horovod."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import torch

from common import ROOT


def module(name):
    """Of examples/. Not by the path: other modules there have names of ours."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", ROOT / f"examples/{name}.py")
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


sequences = module("sequences")
images = module("images")
models = module("models")


# ---------------------------------------------------------------------------------------- series

@pytest.mark.parametrize("name, train, test, channels, classes, shortest, longest", [
    ("JapaneseVowels", 270, 370, 12, 9, 7, 29), ("PLAID", 537, 537, 1, 11, 100, 1344)])
def test_series(name, train, test, channels, classes, shortest, longest):
    data = sequences.load(name)
    assert (len(data.train), len(data.test)) == (train, test)
    assert (data.channels, data.classes) == (channels, classes)
    lengths = np.concatenate([data.train.lengths, data.test.lengths])
    assert (lengths.min(), lengths.max()) == (shortest, longest)
    assert all(x.dtype == np.float32 and x.shape[1] == channels and np.isfinite(x).all()
               for x in data.train.x + data.test.x)
    assert set(data.train.y) == set(data.test.y) == set(range(classes))
    steps = np.concatenate(data.train.x)
    assert np.allclose(steps.mean(axis=0), 0, atol=1e-2) and np.allclose(steps.std(axis=0), 1, atol=1e-2)
    assert "sktime" not in sys.modules


def test_values_of_a_file(tmp_path):
    path = tmp_path / "some.ts"
    path.write_text("# a comment\n@data\n1,2,3:4,5,6:a\n\n7:8:b\n")
    (first, a), (second, b) = sequences.read(path)
    assert first.tolist() == [[1, 4], [2, 5], [3, 6]] and second.tolist() == [[7, 8]]
    assert (a, b) == ("a", "b")


@pytest.mark.parametrize("line", ["1,2:3:a", "1,x:a", "a"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "some.ts"
    path.write_text(f"@data\n1:1\n{line}\n")
    with pytest.raises(ValueError, match="some.ts:3: "):
        sequences.read(path)


def test_series_that_are_not_there(monkeypatch):
    with pytest.raises(ValueError, match="name='Vowels' is not one of JapaneseVowels, PLAID"):
        sequences.load("Vowels")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="requirements/examples.txt"):
        sequences.load("PLAID")


def series(*lengths):
    return sequences.Series([np.full((n, 2), n, np.float32) for n in lengths],
                            np.arange(len(lengths)))


def test_a_padded_batch():
    x, lengths, y = sequences.padded(series(3, 1, 2), [2, 0])
    assert x.tolist() == [[[2, 2], [2, 2], [0, 0]], [[3, 3]] * 3]
    assert lengths.tolist() == [2, 3] and y.tolist() == [2, 0]


def test_frames():
    part = series(3, 4)
    data = sequences.framed(sequences.Dataset("some", 2, 2, part, part), 2)
    assert data.channels == 4
    assert data.train.x[0].tolist() == [[3, 3, 3, 3], [3, 3, 0, 0]]
    assert data.test.lengths.tolist() == [2, 2]


def test_ranks_have_disjoint_shares_of_like_lengths():
    data = series(*range(1, 25))
    seen = []
    for rank in range(2):
        batches = sequences.batches(data, 4, seed=1, rank=rank, ranks=2)
        for _ in range(3):
            x, lengths, y = next(batches)
            seen += y.tolist()
            # Of every other length, four in a row.
            assert lengths.max() - lengths.min() == 6
    assert sorted(seen) == list(range(24))
    mixed = sequences.batches(data, 4, seed=1, bucketed=False)
    assert max(np.ptp(next(mixed)[1]) for _ in range(6)) > 6
    with pytest.raises(ValueError, match="batch_size=13 is more than the 12 series of a rank"):
        next(sequences.batches(data, 13, ranks=2))


# -------------------------------------------------------------------------------------- CIFAR-10

@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("inside", [".", "cifar-10-batches-py"])
def test_cifar10_files(tmp_path, binary, inside):
    images.make_cifar10_sample(tmp_path / inside, binary)
    wanted, labels = images.coloured_digits(32)
    for part, share in (("train", slice(1500)), ("test", slice(1500, 1797))):
        pixels, y = images.load_cifar10(tmp_path, part)
        assert pixels.dtype == np.uint8 and y.dtype == np.int64
        assert np.array_equal(pixels, wanted[share]) and np.array_equal(y, labels[share])


def test_a_pixel_is_where_cifar10_has_it(tmp_path):
    """A record is a label, then 1,024 red, 1,024 green and 1,024 blue values, by rows."""
    record = np.zeros(3073, np.uint8)
    record[0] = 7
    record[1 + 1024 + 32 * 5 + 9] = 200  # green, row 5, column 9
    record.tofile(tmp_path / "test_batch.bin")
    pixels, labels = images.load_cifar10(tmp_path, "test")
    assert labels.tolist() == [7] and pixels.sum() == 200 and pixels[0, 5, 9, 1] == 200


def test_a_pickle_of_python_2(tmp_path):
    """As in the original archive: numpy's own module was named otherwise then."""
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, protocol=2)
    assert b"cnumpy._core.multiarray\n" in content
    (tmp_path / "test_batch").write_bytes(
        content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert images.load_cifar10(tmp_path, "test")[1].tolist() == [3]


def test_wrong_cifar10_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither data_batch_1 nor data_batch_1.bin.*make-sample"):
        images.load_cifar10(tmp_path, "train")
    test = tmp_path / "test_batch"
    test.write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [3]}))
    with pytest.raises(ValueError, match=r"images uint8 \(2, 3072\), not uint8 \(1, 3072\)"):
        images.load_cifar10(tmp_path, "test")
    test.write_bytes(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}))
    with pytest.raises(ValueError, match="labels that are not from 0 to 9"):
        images.load_cifar10(tmp_path, "test")
    for function, name in ((print, "builtins.print"), (np.save, "numpy.save")):
        test.write_bytes(pickle.dumps(function))
        with pytest.raises(ValueError, match=f"holds arrays, but this one {name}"):
            images.load_cifar10(tmp_path, "test")
    test.unlink()
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="has 3 bytes, which are no records of 3073"):
        images.load_cifar10(tmp_path, "test")


def test_augmentation_moves_and_mirrors():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 16, 10] = 1
    random = np.random.default_rng(0)
    places = {tuple(np.argwhere(images.augment_cifar10(image, random)[0, :, :, 0])[0])
              for _ in range(2000)}
    rows, columns = zip(*places)
    assert set(rows) == set(range(12, 21))
    # 10 is 21 in the mirror; four pixels to either side.
    assert set(columns) == set(range(6, 15)) | set(range(17, 26))


# -------------------------------------------------------------------------------------- ImageNet

def test_a_folder_of_images(tmp_path):
    images.make_imagenet_sample(tmp_path, classes=3, train=4, test=2)
    train = images.ImageFolder(tmp_path, "train")
    assert train.classes == ["n00000000", "n00000001", "n00000002"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(images.ImageFolder(tmp_path, "val")) == 6
    image = images.open_image(train.paths[0])
    assert image.mode == "RGB" and 48 <= image.width <= 80
    random = np.random.default_rng(0)
    crops = [images.random_resized_crop(image, 32, random) for _ in range(5)]
    assert all(crop.shape == (32, 32, 3) and crop.dtype == np.uint8 for crop in crops)
    assert len({crop.tobytes() for crop in crops}) == 5
    (tmp_path / "empty/a").mkdir(parents=True)
    for part in ("empty", "missing"):
        with pytest.raises(FileNotFoundError, match=rf"{part}/<class>/\*.JPEG.*--make-sample"):
            images.ImageFolder(tmp_path, part)


def test_the_centre_of_an_image():
    from PIL import Image

    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[5:75, 25:95] = 255  # 7/8 of 80, in the middle
    assert (images.centre_crop(Image.fromarray(pixels), 70) == 255).all()
    pixels[5, 25] = 0
    assert images.centre_crop(Image.fromarray(pixels), 70)[0, 0, 0] == 0


def test_every_rank_draws_from_all_images_in_an_order_of_its_own():
    orders = [images.order(7, 0, rank) for rank in range(2)]
    epochs = [[next(order) for _ in range(7)] for order in orders for _ in range(2)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("name, parameters, size", [
    # By hand for the small ones; torchvision's documentation for the others.
    ("resnet20", 272_474, 32), ("resnet32", 466_906, 32), ("resnet18", 11_689_512, 64),
    ("resnet50", 25_557_032, 64)])
def test_models(name, parameters, size):
    model = getattr(models, name)()
    assert sum(p.numel() for p in model.parameters()) == parameters
    logits = model(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, model.fc.out_features)
