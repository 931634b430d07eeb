"""Trains ResNet-50 on ImageNet with Keras and partial rounds.

    python examples/tensorflow2_keras_imagenet_resnet50.py --make-sample data/imagenet-sample
    horovodrun -np 2 python examples/tensorflow2_keras_imagenet_resnet50.py \\
        --data data/imagenet-sample --model mobilenet --image-size 64 --batch-size 8 --epochs 4 \\
        --warm-up 1

    sbatch examples/slurm/imagenet.sbatch keras /path/to/imagenet

The first lines try it on a small set made on the spot. The real one has to be there, as
train/<class>/*.JPEG and val/<class>/*.JPEG. Learning rate, warm-up and its drops follow rounds;
all ranks validate together, and rank 0 saves a checkpoint, at each epoch's end; a training that was
interrupted carries on from there (`keras_common.py`). Nothing is emulated, unless --imbalance asks
for delays.
"""

import keras_common  # first: it quietens TensorFlow

import keras
import tensorflow as tf

import horovod_partial.tensorflow.keras as hvd

import common
import images

MODELS = {"resnet50": keras.applications.ResNet50, "mobilenet": keras.applications.MobileNet}


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/tensorflow2_keras_imagenet_resnet50",
                           "history.json, history.png and checkpoint.keras, from which a training "
                           "carries on")
    parser.add_argument("--model", choices=MODELS, default="resnet50",
                        help="mobilenet is the smaller one, to try the example")
    parser.add_argument("--image-size", type=common.positive, default=224, help="in pixels")
    common.add_training_options(parser, batch_size=32, epochs=90)
    return common.parse_training_args(parser, images.make_imagenet_sample)


def random_resized_crop(image):
    """A part of 8 to 100 % of its area and sides of 3:4 to 4:3, half of them mirrored."""
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image), tf.zeros((1, 0, 4)), area_range=(0.08, 1), aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10, use_image_if_no_bounding_boxes=True)
    return tf.image.random_flip_left_right(tf.slice(image, begin, size))


def centre_crop(image):
    """The middle, 7/8 of the shorter side."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width) * 7 // 8
    return tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)


def batches(args, folder, crop, endless):
    """All images, endlessly, in this rank's order (a shard of its own would count less on a rank
    that takes fewer steps); or this rank's share of them, once."""
    def read(path, label):
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image = tf.image.resize(crop(image), (args.image_size, args.image_size))
        image.set_shape((args.image_size, args.image_size, 3))
        return (image / 255 - images.IMAGENET_MEAN) / images.IMAGENET_DEVIATION, label

    mine = slice(None) if endless else slice(hvd.rank(), None, hvd.size())
    dataset = tf.data.Dataset.from_tensor_slices((folder.paths[mine], folder.labels[mine]))
    if endless:
        dataset = dataset.shuffle(len(dataset), seed=args.seed + hvd.rank()).repeat()
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(args.batch_size).prefetch(tf.data.AUTOTUNE)


def main():
    args = parse_args()
    hvd.init()
    keras_common.set_up_devices()
    train = images.ImageFolder(args.data, "train")
    test = images.ImageFolder(args.data, "val")

    keras.utils.set_random_seed(args.seed + hvd.rank())  # of the augmentation
    model = MODELS[args.model](weights=None, input_shape=(args.image_size, args.image_size, 3),
                               classes=len(train.classes), classifier_activation=None)
    keras_common.train(args, model, batches(args, train, random_resized_crop, endless=True),
                       lambda: batches(args, test, centre_crop, endless=False), len(train),
                       [1 / 3, 2 / 3, 8 / 9])


if __name__ == "__main__":
    main()
