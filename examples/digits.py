"""What the digits examples share: the comparison, and scikit-learn's images. No framework."""

import numpy as np

import common


def comparison(description, output):
    return common.Comparison("Digits", description, output, common.Metric("accuracy", 0.95))


def load_data():
    """Images of 64 values and labels: train_x, train_y, test_x, test_y."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0,
        stratify=labels)
    return train_x, train_y, test_x, test_y


def batches(train_x, train_y, batch_size, seed, rank):
    """This rank's endless batches of all images, in an order of its own. (A shard of its own would
    count less on a rank that takes fewer steps.)"""
    random = np.random.default_rng([seed, rank])
    if len(train_x) < batch_size:
        raise ValueError(f"batch_size={batch_size} is more than the {len(train_x)} images")
    while True:
        order = random.permutation(len(train_x))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            chosen = order[start:start + batch_size]
            yield train_x[chosen], train_y[chosen]
