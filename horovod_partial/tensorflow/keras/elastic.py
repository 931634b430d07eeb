"""``horovod.tensorflow.keras.elastic``, whose states keep the round of a partial optimizer."""

from horovod.tensorflow.keras.elastic import *  # noqa: F401,F403
