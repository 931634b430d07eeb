"""A script for stock Horovod, which knows nothing of partial collectives."""

import torch

import horovod.torch as hvd

hvd.init()
torch.manual_seed(hvd.rank())
model = torch.nn.Linear(4, 2)
optimizer = hvd.DistributedOptimizer(torch.optim.Adam(model.parameters(), lr=0.01),
                                     named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)
for step in range(5 if not hasattr(optimizer, "flush") else 5 + 3 * hvd.rank()):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).pow(2).sum().backward()
    optimizer.step()
if hasattr(optimizer, "flush"):
    print(f"rank {hvd.rank()} trained partially: {optimizer._partial.settings.policy}", flush=True)
else:
    weights = hvd.allgather(model.weight.detach().reshape(1, -1))
    assert all(torch.equal(weights[0], other) for other in weights)
    assert hvd.broadcast_object([1, 2], root_rank=0) == [1, 2]
    hvd.barrier()
    assert hvd.join() >= 0
    print(f"rank {hvd.rank()} trained synchronously", flush=True)
