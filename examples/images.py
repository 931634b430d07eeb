"""Images from local folders: CIFAR-10 in its own files, and ImageNet's layout of folders; how they
are augmented; and small sets made on the spot, in the same formats, to try the examples with. No
framework; Pillow for JPEG. Nothing is downloaded.
"""

import itertools
import pickle
from pathlib import Path

import numpy as np

CIFAR10_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
CIFAR10_DEVIATION = np.array([0.2470, 0.2435, 0.2616], np.float32)
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def order(number, seed, rank):
    """This rank's endless order of ``number`` samples: indices, shuffled anew in every epoch. Every
    rank draws from all: a shard of its own would count less on a rank that takes fewer steps."""
    random = np.random.default_rng([seed, rank])
    while True:
        yield from random.permutation(number).tolist()


# ------------------------------------------------------------------------------------- CIFAR-10

CIFAR10_PYTHON = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def load_cifar10(folder, part):
    """The images of ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, unpacked.

    Args:
        folder: with ``data_batch_1`` and so on, or with ``data_batch_1.bin``; or the folder that
            has this one, ``cifar-10-batches-py`` or ``cifar-10-batches-bin``.
        part: ``"train"`` or ``"test"``.

    Returns:
        Images, uint8 (number, 32, 32, 3), and labels, int64 (number), from 0 to 9.

    Raises:
        FileNotFoundError: a file is missing. ValueError: one is not what it should be.
    """
    folder = Path(folder)
    names = CIFAR10_PYTHON[part]
    for inside in (folder, folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"):
        for ending, read in (("", _read_cifar10_python), (".bin", _read_cifar10_binary)):
            if (inside / (names[0] + ending)).exists():
                images, labels = zip(*(read(inside / (name + ending)) for name in names))
                # From three planes of 32 rows of 32 values.
                images = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                return np.ascontiguousarray(images), np.concatenate(labels)
    raise FileNotFoundError(
        f"{folder} has neither {names[0]} nor {names[0]}.bin: unpack cifar-10-python.tar.gz there "
        "(from https://www.cs.toronto.edu/~kriz/cifar.html), or make a small set with "
        f"--make-sample {folder}")


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run any code; CIFAR-10's hold arrays."""

    NEEDED = {"numpy": ("_reconstruct", "ndarray", "dtype"), "_codecs": ("encode",)}

    def find_class(self, module, name):
        if name in self.NEEDED.get(module.split(".")[0], ()):
            return super().find_class(module, name)
        raise ValueError(f"a batch of CIFAR-10 holds arrays, but this one {module}.{name}")


def _read_cifar10_python(path):
    with open(path, "rb") as file:
        batch = _ArraysOnly(file, encoding="bytes").load()
    return _checked(path, np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64))


def _read_cifar10_binary(path):
    content = np.fromfile(path, np.uint8)
    if content.size % 3073:
        raise ValueError(f"{path} has {content.size} bytes, which are no records of 3073")
    records = content.reshape(-1, 3073)
    return _checked(path, records[:, 1:], records[:, 0].astype(np.int64))


def _checked(path, images, labels):
    if images.dtype != np.uint8 or images.shape != (len(labels), 3072):
        raise ValueError(f"{path} has images {images.dtype} {images.shape}, not uint8 "
                         f"({len(labels)}, 3072)")
    if not np.isin(labels, np.arange(10)).all():
        raise ValueError(f"{path} has labels that are not from 0 to 9")
    return images, labels


def make_cifar10_sample(folder, binary=False):
    """Writes scikit-learn's digits, as coloured images of 32 x 32, in CIFAR-10's own format: 1,500
    to train with in five files, and 297 to test with."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = coloured_digits(32)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    for i, name in enumerate(CIFAR10_PYTHON["train"] + CIFAR10_PYTHON["test"]):
        part = slice(300 * i, 300 * (i + 1))
        if binary:
            records = np.concatenate([labels[part, None].astype(np.uint8), planes[part]], axis=1)
            records.tofile(folder / f"{name}.bin")
        else:
            with open(folder / name, "wb") as file:
                pickle.dump({b"batch_label": name.encode(), b"labels": labels[part].tolist(),
                             b"data": planes[part]}, file, protocol=2)


def augment_cifar10(images, random):
    """The usual augmentation: moved by up to 4 pixels in both directions (zeros come in), and half
    of them mirrored. uint8 (number, 32, 32, 3), in and out."""
    framed = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    result = np.empty_like(images)
    for i, (top, left) in enumerate(random.integers(9, size=(len(images), 2))):
        result[i] = framed[i, top:top + 32, left:left + 32]
    mirrored = random.random(len(images)) < 0.5
    result[mirrored] = result[mirrored, :, ::-1]
    return result


def cifar10_batches(images, labels, batch_size, seed, rank):
    """This rank's endless batches of all images, shuffled and augmented, and their labels."""
    indices = order(len(images), seed, rank)
    random = np.random.default_rng([seed, rank, 1])
    while True:
        chosen = list(itertools.islice(indices, batch_size))
        yield augment_cifar10(images[chosen], random), labels[chosen]


def cifar10_share(images, labels, rank, ranks, batch_size=500):
    """This rank's share of the images, once, and their labels."""
    mine = np.arange(rank, len(images), ranks)
    for start in range(0, len(mine), batch_size):
        chosen = mine[start:start + batch_size]
        yield images[chosen], labels[chosen]


def normalise(images, mean, deviation):
    """float32, of uint8."""
    return (images.astype(np.float32) / 255 - mean) / deviation


# ------------------------------------------------------------------------------------- ImageNet

class ImageFolder:
    """The images of ``<folder>/<part>/<class>/*``; classes are numbered by name.

    Attributes:
        paths: strings. labels: int64. classes: names.
    """

    def __init__(self, folder, part):
        root = Path(folder) / part
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir()
                              ) if root.is_dir() else []
        found = [(str(path), number) for number, name in enumerate(self.classes)
                 for path in sorted((root / name).iterdir())
                 if path.suffix.lower() in (".jpeg", ".jpg", ".png")]
        if not found:
            raise FileNotFoundError(
                f"there is no image {root}/<class>/*.JPEG: give the folder that has train and val, "
                f"or make a small set with --make-sample {folder}")
        self.paths = [path for path, _ in found]
        self.labels = np.array([number for _, number in found])

    def __len__(self):
        return len(self.paths)


def open_image(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def random_resized_crop(image, size, random):
    """A part of the image, of 8 to 100 % of its area and sides of 3:4 to 4:3, half of them
    mirrored: uint8 (size, size, 3). As in "Going Deeper with Convolutions" (Szegedy et al., 2015)."""
    from PIL import Image

    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(width - w + 1), random.integers(height - h + 1)
            break
    else:
        w = h = min(width, height)
        left, top = (width - w) // 2, (height - h) // 2
    image = image.resize((size, size), Image.Resampling.BILINEAR,
                         box=(left, top, left + w, top + h))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(image)


def centre_crop(image, size):
    """The middle, 7/8 of the shorter side: uint8 (size, size, 3)."""
    from PIL import Image

    width, height = image.size
    side = min(width, height) * 7 / 8
    left, top = (width - side) / 2, (height - side) / 2
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR,
                                 box=(left, top, left + side, top + side)))


def make_imagenet_sample(folder, classes=4, train=32, test=8):
    """Writes scikit-learn's digits, coloured and of uneven sizes of about 64 x 64, in ImageNet's
    layout: so many of each class into ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""
    from PIL import Image

    images, labels = coloured_digits(64)
    random = np.random.default_rng(0)
    for label in range(classes):
        mine = iter(images[labels == label])
        for part, number in (("train", train), ("val", test)):
            inside = Path(folder) / part / f"n{label:08}"
            inside.mkdir(parents=True, exist_ok=True)
            for i, pixels in enumerate(itertools.islice(mine, number)):
                width, height = random.integers(48, 81, size=2)
                image = Image.fromarray(pixels).resize((int(width), int(height)))
                image.save(inside / f"n{label:08}_{i}.JPEG", quality=90)


def coloured_digits(size):
    """scikit-learn's images of digits, each in a colour of its own: uint8 (1797, size, size, 3),
    with labels int64 (1797). ``size``: a multiple of 8."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).repeat(size // 8, axis=1).repeat(size // 8, axis=2) / 16
    colours = np.random.default_rng(0).uniform(0.4, 1, size=(len(images), 1, 1, 3))
    return (255 * images[..., None] * colours).astype(np.uint8), labels.astype(np.int64)
