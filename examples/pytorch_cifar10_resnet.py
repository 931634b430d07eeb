"""Trains ResNet-20 or ResNet-32 on CIFAR-10 with partial rounds.

    python examples/pytorch_cifar10_resnet.py --make-sample data/cifar10-sample
    horovodrun -np 2 python examples/pytorch_cifar10_resnet.py --data data/cifar10-sample --epochs 5

    horovodrun -np 4 python examples/pytorch_cifar10_resnet.py --data data/cifar10 --policy first:3

The first two lines try it on a small set made on the spot. For the real one, unpack
cifar-10-python.tar.gz or cifar-10-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) into a
folder, and name it. The training itself is in
`pytorch_common.py`. Nothing is emulated, unless --imbalance asks for delays.
"""

import torch

import horovod_partial.torch as hvd

import common
import images
import models
import pytorch_common


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/pytorch_cifar10_resnet",
                           "history.json, history.png and checkpoint.pt, from which a training "
                           "carries on")
    parser.add_argument("--model", choices=["resnet20", "resnet32"], default="resnet20")
    common.add_training_options(parser, batch_size=128, epochs=160)
    return common.parse_training_args(parser, images.make_cifar10_sample)


def tensors(pixels, labels):
    x = images.normalise(pixels, images.CIFAR10_MEAN, images.CIFAR10_DEVIATION)
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def main():
    args = parse_args()
    hvd.init()
    device = pytorch_common.device()
    train = images.load_cifar10(args.data, "train")
    test = images.load_cifar10(args.data, "test")

    torch.manual_seed(args.seed)
    model = getattr(models, args.model)().to(device)
    pytorch_common.train(
        args, model,
        (tensors(*batch) for batch in images.cifar10_batches(
            *train, args.batch_size, args.seed, hvd.rank())),
        lambda: (tensors(*batch) for batch in images.cifar10_share(*test, hvd.rank(), hvd.size())),
        len(train[0]), [1 / 2, 3 / 4], device)


if __name__ == "__main__":
    main()
