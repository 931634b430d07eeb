"""Trains an LSTM on real series of unequal length, once per policy: the time of a step depends on
the batch, so that ranks are uneven by nature, as with videos in the paper on eager-SGD.

    horovodrun -np 4 python examples/pytorch_lstm.py
    horovodrun -np 4 python examples/pytorch_lstm.py --data PLAID --policies full majority first:2
    horovodrun -np 4 python examples/pytorch_lstm.py --data PLAID --real-compute

The series are real: spoken vowels, or recordings of appliances (`sequences.py`). The compute time is
EMULATED: each step sleeps, in place of a GPU's work, in proportion to the longest series of its
batch. With --real-compute nothing is emulated: a step takes what it takes on this machine; where
ranks share cores, they are then slowed down by each other too.
"""

import time

import torch

import horovod_partial.torch as hvd

import common
import sequences

# Of each data set: steps that are joined into one of as many times the channels, and the accuracy to
# which time is measured.
DEFAULTS = {"JapaneseVowels": (1, 0.95), "PLAID": (20, 0.5)}


class Classifier(torch.nn.Module):
    """From padded series (batch, longest, channels) and their lengths (batch) to logits."""

    def __init__(self, channels, hidden, classes):
        super().__init__()
        self.lstm = torch.nn.LSTM(channels, hidden, batch_first=True)
        self.output = torch.nn.Linear(hidden, classes)

    def forward(self, x, lengths):
        states, _ = self.lstm(x)
        # The mean over a series' own steps.
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        return self.output((states * inside[:, :, None]).sum(1) / lengths[:, None])


def tensors(batch):
    return [torch.from_numpy(array) for array in batch]


def train(training):
    args = training.args
    data = sequences.framed(sequences.load(args.data), args.frame)
    torch.manual_seed(training.seed)
    model = Classifier(data.channels, args.hidden, data.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), **training.partial)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def before_round(index):
        # Gradients are the average over ranks here. Clipping and the schedule follow rounds, so
        # that replicas stay identical.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(index)

    optimizer.register_before_round(before_round)

    test_x, test_lengths, test_y = tensors(sequences.padded(data.test, range(len(data.test))))

    def accuracy():
        with torch.no_grad():
            return (model(test_x, test_lengths).argmax(1) == test_y).float().mean().item()

    share = sequences.batches(data.train, args.batch_size, training.seed, hvd.rank(), hvd.size())
    hvd.allreduce(torch.zeros(1), name="start")
    training.start()
    for _ in hvd.rounds(optimizer, args.rounds):
        x, lengths, y = tensors(next(share))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x, lengths), y).backward()
        if not args.real_compute:
            time.sleep(x.shape[1] * args.ms_per_step / 1000)
        optimizer.step()
        training.after_step(optimizer.round, accuracy, every=5)
    return training.result(accuracy, [p.detach().numpy() for p in model.parameters()],
                           optimizer.stats(), hvd.allgather_object)


def main():
    comparison = common.Comparison(
        "LSTM on series of unequal length", __doc__.split("\n\n")[0], "results/pytorch_lstm",
        common.Metric("accuracy", None), batch_size=16, samples="series", learning_rate=0.01,
        momentum=None, base_ms=None)
    parser = comparison.parser
    parser.add_argument("--data", choices=sequences.NAMES, default="JapaneseVowels",
                        help="series of 7 to 29 steps, or of 100 to 1,344")
    parser.add_argument("--frame", type=common.positive,
                        help="so many steps of a series are joined into one; None: by the data, "
                             "as is --target")
    parser.add_argument("--hidden", type=common.positive, default=64, help="size of the LSTM")
    parser.add_argument("--ms-per-step", type=common.not_negative, default=8,
                        help="emulated compute time per step of the longest series of a batch")
    parser.add_argument("--real-compute", action="store_true",
                        help="nothing is emulated: a step takes what it takes on this machine")
    args = comparison.parse_args()
    frame, target = DEFAULTS[args.data]
    args.frame = args.frame or frame
    args.target = args.target or target
    comparison.emulated = not args.real_compute
    comparison.imbalance = args.data + (
        ", real compute time" if args.real_compute else
        f" (emulated compute: {args.ms_per_step:g} ms per step of the longest series)")
    hvd.init()
    torch.set_num_threads(1)
    comparison.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
