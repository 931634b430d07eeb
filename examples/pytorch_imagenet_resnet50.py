"""Trains ResNet-50 on ImageNet with partial rounds.

    python examples/pytorch_imagenet_resnet50.py --make-sample data/imagenet-sample
    horovodrun -np 2 python examples/pytorch_imagenet_resnet50.py --data data/imagenet-sample \\
        --model resnet18 --image-size 64 --batch-size 8 --epochs 4 --warm-up 1

    sbatch examples/slurm/imagenet.sbatch pytorch /path/to/imagenet

The first two lines try it on a small set made on the spot. The real one has to be there, as
train/<class>/*.JPEG and val/<class>/*.JPEG. Learning rate, warm-up and its drops follow rounds;
all ranks validate together, and rank 0 saves a checkpoint, at each epoch's end; a training that was
interrupted carries on from there (`pytorch_common.py`). Nothing is emulated, unless --imbalance asks
for delays.
"""

import numpy as np
import torch

import horovod_partial.torch as hvd

import common
import images
import models
import pytorch_common


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/pytorch_imagenet_resnet50",
                           "history.json, history.png and checkpoint.pt, from which a training "
                           "carries on")
    parser.add_argument("--model", choices=["resnet18", "resnet50"], default="resnet50")
    parser.add_argument("--image-size", type=common.positive, default=224, help="in pixels")
    parser.add_argument("--workers", type=int, default=4,
                        help="processes of each rank that read images; 0: the rank itself does")
    common.add_training_options(parser, batch_size=32, epochs=90)
    return common.parse_training_args(parser, images.make_imagenet_sample)


class Images(torch.utils.data.Dataset):
    """Decoded and cut, for a DataLoader; at random where they are for training."""

    def __init__(self, folder, size, augment):
        self.folder, self.size, self.augment = folder, size, augment

    def __len__(self):
        return len(self.folder)

    def __getitem__(self, index):
        image = images.open_image(self.folder.paths[index])
        if self.augment:
            # PyTorch seeds its own generator in each worker.
            random = np.random.default_rng(torch.randint(2**31, ()).item())
            pixels = images.random_resized_crop(image, self.size, random)
        else:
            pixels = images.centre_crop(image, self.size)
        x = images.normalise(pixels, images.IMAGENET_MEAN, images.IMAGENET_DEVIATION)
        return torch.from_numpy(x).permute(2, 0, 1), int(self.folder.labels[index])


def loaders(args, train, test):
    """All images to train with, endlessly, in this rank's order; and its share of those to test
    with."""
    loading = dict(batch_size=args.batch_size, num_workers=args.workers,
                   persistent_workers=args.workers > 0,
                   # A fork would copy Horovod's threads in the middle of what they do.
                   multiprocessing_context="forkserver" if args.workers else None)
    endless = images.order(len(train), args.seed, hvd.rank())
    mine = range(hvd.rank(), len(test), hvd.size())
    return (torch.utils.data.DataLoader(Images(train, args.image_size, True), sampler=endless,
                                        **loading),
            torch.utils.data.DataLoader(Images(test, args.image_size, False), sampler=mine,
                                        **loading))


def main():
    args = parse_args()
    hvd.init()
    device = pytorch_common.device()
    train = images.ImageFolder(args.data, "train")
    test = images.ImageFolder(args.data, "val")

    torch.manual_seed(args.seed + hvd.rank())  # of the augmentation
    model = getattr(models, args.model)(num_classes=len(train.classes)).to(device)
    train_loader, test_loader = loaders(args, train, test)
    pytorch_common.train(args, model, iter(train_loader), lambda: test_loader, len(train),
                         [1 / 3, 2 / 3, 8 / 9], device)


if __name__ == "__main__":
    main()
