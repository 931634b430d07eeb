"""Trains ResNet-20 or ResNet-32 on CIFAR-10 with Keras and partial rounds.

    python examples/tensorflow2_keras_cifar10_resnet.py --make-sample data/cifar10-sample
    horovodrun -np 2 python examples/tensorflow2_keras_cifar10_resnet.py \\
        --data data/cifar10-sample --epochs 5

    horovodrun -np 4 python examples/tensorflow2_keras_cifar10_resnet.py \\
        --data data/cifar10 --policy first:3

The first lines try it on a small set made on the spot. For the real one, unpack
cifar-10-python.tar.gz or cifar-10-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) into a
folder, and name it. The training itself is in `keras_common.py`. Nothing is emulated, unless
--imbalance asks for delays.
"""

import keras_common  # first: it quietens TensorFlow

import keras

import horovod_partial.tensorflow.keras as hvd

import common
import images

BLOCKS = {"resnet20": 3, "resnet32": 5}  # of each stage


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/tensorflow2_keras_cifar10_resnet",
                           "history.json, history.png and checkpoint.keras, from which a training "
                           "carries on")
    parser.add_argument("--model", choices=BLOCKS, default="resnet20")
    common.add_training_options(parser, batch_size=128, epochs=160)
    return common.parse_training_args(parser, images.make_cifar10_sample)


def resnet(blocks):
    """He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2."""
    def convolution(x, width, size, stride=1):
        x = keras.layers.Conv2D(width, size, stride, padding="same", use_bias=False,
                                kernel_initializer="he_normal")(x)
        return keras.layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(convolution(inputs, 16, 3))
    for width in (16, 32, 64):
        for block in range(blocks):
            stride = 2 if width > 16 and block == 0 else 1
            y = keras.layers.ReLU()(convolution(x, width, 3, stride))
            y = convolution(y, width, 3)
            if stride > 1:
                x = convolution(x, width, 1, stride)
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def normalised(pixels):
    return images.normalise(pixels, images.CIFAR10_MEAN, images.CIFAR10_DEVIATION)


def main():
    args = parse_args()
    hvd.init()
    keras_common.set_up_devices()
    train = images.load_cifar10(args.data, "train")
    test = images.load_cifar10(args.data, "test")

    keras.utils.set_random_seed(args.seed)
    keras_common.train(
        args, resnet(BLOCKS[args.model]),
        ((normalised(pixels), labels) for pixels, labels in images.cifar10_batches(
            *train, args.batch_size, args.seed, hvd.rank())),
        lambda: ((normalised(pixels), labels) for pixels, labels in images.cifar10_share(
            *test, hvd.rank(), hvd.size())),
        len(train[0]), [1 / 2, 3 / 4])


if __name__ == "__main__":
    main()
