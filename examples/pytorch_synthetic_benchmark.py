"""Measures images per second of a residual network on random images: an ordinary Horovod script.

    horovodrun -np 4 python examples/pytorch_synthetic_benchmark.py --model resnet18
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import horovod.torch as hvd

import models

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--model", default="resnet50",
                    choices=["resnet18", "resnet20", "resnet32", "resnet50"])
parser.add_argument("--batch-size", type=int, default=32, help="images per rank and step")
parser.add_argument("--image-size", type=int, default=224, help="in pixels")
parser.add_argument("--num-warmup-batches", type=int, default=10,
                    help="batches before anything is measured")
parser.add_argument("--num-batches-per-iter", type=int, default=10,
                    help="batches of an iteration, which gives one measurement")
parser.add_argument("--num-iters", type=int, default=10, help="iterations")
parser.add_argument("--fp16-allreduce", action="store_true", help="gradients travel with 16 bits")
parser.add_argument("--use-adasum", action="store_true", help="reduce with Adasum")
parser.add_argument("--no-cuda", action="store_true", help="use no GPU")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--output", type=Path, metavar="FOLDER",
                    help="folder for results.json and images_per_second.png")


def plot(rates, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    for rank, rate in enumerate(rates):
        axes.plot(range(1, len(rate) + 1), rate, marker=".", label=f"rank {rank}")
    axes.set(xlabel="iteration", ylabel="images/s", title="Images per second of each rank")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    args = parser.parse_args()
    for name in ("batch_size", "image_size", "num_batches_per_iter", "num_iters"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    hvd.init()
    torch.manual_seed(args.seed)
    cuda = torch.cuda.is_available() and not args.no_cuda
    if cuda:
        torch.cuda.set_device(hvd.local_rank())
    else:
        torch.set_num_threads(1)
    device = torch.device("cuda" if cuda else "cpu")

    model = getattr(models, args.model)().to(device)
    classes = model.fc.out_features
    # With Adasum, the learning rate does not grow with the number of ranks.
    optimizer = torch.optim.SGD(model.parameters(),
                                lr=0.01 * (1 if args.use_adasum else hvd.size()))
    optimizer = hvd.DistributedOptimizer(
        optimizer, named_parameters=model.named_parameters(),
        compression=hvd.Compression.fp16 if args.fp16_allreduce else hvd.Compression.none,
        op=hvd.Adasum if args.use_adasum else hvd.Average)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    data = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    target = torch.randint(classes, (args.batch_size,), device=device)

    def log(text):
        if hvd.rank() == 0:
            print(text, flush=True)

    def steps(number):
        for _ in range(number):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(data), target).backward()
            optimizer.step()
        if cuda:
            torch.cuda.synchronize()

    log(f"Model: {args.model}, batch size: {args.batch_size}, {hvd.size()} ranks on "
        f"{'GPUs' if cuda else 'CPUs'}")
    log("Warming up...")
    steps(args.num_warmup_batches)
    rates = []
    for i in range(args.num_iters):
        start = time.perf_counter()
        steps(args.num_batches_per_iter)
        rates.append(args.batch_size * args.num_batches_per_iter / (time.perf_counter() - start))
        log(f"Iter #{i + 1}/{args.num_iters}: {rates[-1]:.1f} img/sec per rank")

    everyone = hvd.allgather_object(rates)
    total = np.sum(everyone, axis=0)
    log(f"Img/sec per rank: {np.mean(everyone):.1f} +-{1.96 * np.std(everyone):.1f}")
    log(f"Total img/sec on {hvd.size()} ranks: {total.mean():.1f} +-{1.96 * total.std():.1f}")
    if args.output and hvd.rank() == 0:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "results.json").write_text(json.dumps({
            "model": args.model, "batch_size": args.batch_size, "ranks": hvd.size(),
            "images_per_second": everyone}, indent=1))
        plot(everyone, args.output / "images_per_second.png")
        log(f"written: {args.output / 'results.json'} and "
            f"{args.output / 'images_per_second.png'}")


if __name__ == "__main__":
    main()
