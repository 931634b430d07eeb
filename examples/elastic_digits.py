"""Trains the digits elastically: ranks come and go, the others carry on from the last commit.

    horovodrun -np 2 --min-np 2 --max-np 4 --host-discovery-script examples/discover_hosts.sh \\
        --network-interfaces lo python examples/elastic_digits.py

Change `hosts` (or what HOSTS names) while it runs, from `localhost:2` to `localhost:4`, say: new
ranks join in at the next commit. A rank that fails takes its host's other ranks with it, and what all
have done since the last commit is done anew. The images are real; the compute time is EMULATED, as
in `pytorch_digits.py`.
"""

import torch

import horovod_partial.torch as hvd
from horovod_partial.torch import elastic

import common
import digits


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/elastic_digits",
                           "history.json and history.png")
    parser.add_argument("--policy", default="majority", help=common.POLICIES)
    parser.add_argument("--rounds", type=common.positive, default=300, help="of the training")
    parser.add_argument("--commit-every", type=common.positive, default=30,
                        help="rounds between commits, at which ranks come and go: what a failure "
                             "can lose")
    parser.add_argument("--batch-size", type=common.positive, default=32,
                        help="images per rank and step")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    common.add_partial_options(parser)
    common.add_imbalance_options(parser, "random", 50, 100)
    return parser.parse_args()


def main():
    args = parse_args()
    hvd.init()
    torch.set_num_threads(1)
    train_x, train_y, test_x, test_y = map(torch.tensor, digits.load_data())
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9),
        model.named_parameters(), **common.partial_settings(args, args.policy))

    def accuracy():
        with torch.no_grad():
            return (model(test_x).argmax(1) == test_y).float().mean().item()

    @elastic.run
    def train(state):
        """Begins anew, from the last commit, whenever ranks have come or gone."""
        history = common.History(args, hvd.rank(), hvd.size(), optimizer.round, state.points)
        compute = common.EmulatedCompute(args, optimizer.round, hvd.rank(), hvd.size())
        batches = digits.batches(train_x, train_y, args.batch_size, optimizer.round, hvd.rank())

        def at_flush(index):
            # All ranks are at the same round.
            history.add(index, accuracy=accuracy(), ranks=hvd.size())
            state.points = list(history.points)
            state.commit()

        for _ in hvd.rounds(optimizer, args.rounds, every=args.commit_every, at_flush=at_flush):
            x, y = next(batches)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            compute.step()
            optimizer.step()
        history.finish([p.detach().numpy() for p in model.parameters()], optimizer.stats(),
                       hvd.allgather_object)

    train(elastic.TorchState(model, optimizer, points=[]))


if __name__ == "__main__":
    main()
