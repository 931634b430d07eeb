"""What the PyTorch examples that train a model on images share: the training itself."""

import os

import torch

import horovod_partial.torch as hvd

import common


def device():
    """This rank's GPU, or the CPU, whose cores the ranks share."""
    if torch.cuda.is_available():
        torch.cuda.set_device(hvd.local_rank())
        return torch.device("cuda")
    torch.set_num_threads(max(os.cpu_count() // hvd.local_size(), 1))
    return torch.device("cpu")


def validate(model, batches, device):
    """The loss and the top-1 accuracy over the batches (x, y) of all ranks. Every rank calls it,
    after a flush, with its share."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)  # loss, right guesses, images
    with torch.no_grad():
        for x, y in batches:
            logits, y = model(x.to(device)), y.to(device)
            sums += torch.tensor([
                torch.nn.functional.cross_entropy(logits, y, reduction="sum").item(),
                (logits.argmax(1) == y).sum().item(), len(y)], dtype=torch.float64)
    model.train()
    loss, right, images = hvd.allreduce(sums, op=hvd.Sum, name="validate").tolist()
    return loss / images, right / images


def save(path, model, optimizer):
    """A checkpoint, by rank 0. After a flush only: then replicas are identical, and nothing is in
    flight that would have to be saved too."""
    if hvd.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, beside)
        os.replace(beside, path)  # whole, or not at all


def resume(path, model, optimizer):
    """All ranks begin alike: with rank 0's checkpoint, if it has one, else with its model.
    ``optimizer.round`` is that of the checkpoint."""
    if hvd.rank() == 0 and path.exists():
        checkpoint = torch.load(path, map_location="cpu")
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        print(f"carries on from {path}, round {optimizer.round}", flush=True)
    # In this order: where an optimizer has no state yet, Horovod makes one by a step without
    # gradients, which moves parameters where there is weight decay.
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)


def train(args, model, batches, test_batches, images, drops, device):
    """Trains a model, and shows how that goes. Every rank calls it.

    Args:
        args: of ``common.add_training_options``.
        model: on this device; rank 0's counts, or its checkpoint's.
        batches: this rank's endless iterator of (x, y).
        test_batches: a function that gives this rank's share of those to test with.
        images: to train with, of all ranks.
        drops: where the learning rate falls to a tenth, in parts of the training.
    """
    per_epoch = common.rounds_of(args, images, hvd.size())
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum,
                                weight_decay=args.weight_decay)
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(),
                                         **common.partial_settings(args, args.policy))
    checkpoint = args.output / "checkpoint.pt"
    resume(checkpoint, model, optimizer)
    schedule = common.step_schedule(args, per_epoch, hvd.size(), drops)

    def before_round(index):
        # By rounds, not by this rank's own steps: the same on all ranks, so that replicas stay
        # identical.
        for group in optimizer.param_groups:
            group["lr"] = schedule(index)

    optimizer.register_before_round(before_round)

    history = common.History(args, hvd.rank(), hvd.size(), optimizer.round)
    summary = None
    if args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(f"{args.tensorboard}/rank-{hvd.rank()}")
        summary = hvd.PartialSummary(writer, optimizer)
    compute = common.EmulatedCompute(args, args.seed, hvd.rank(), hvd.size())

    def at_flush(index):
        # All ranks are at the same round: the place for what all do together.
        test_loss, accuracy = validate(model, test_batches(), device)
        history.add(index, learning_rate=schedule(index - 1), test_loss=test_loss,
                    accuracy=accuracy)
        save(checkpoint, model, optimizer)
        if summary:
            summary.log()

    for _ in hvd.rounds(optimizer, args.rounds, every=per_epoch, at_flush=at_flush):
        x, y = next(batches)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        compute.step()
        optimizer.step()
        history.after_step(optimizer.round, loss.item)
    history.finish([p.detach().cpu().numpy() for p in model.parameters()], optimizer.stats(),
                   hvd.allgather_object)
