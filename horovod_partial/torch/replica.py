"""A replica: an optimizer's parameters and its state, as bytes and as a fingerprint."""

import hashlib
import io

import numpy as np
import torch

# A learning rate that NumPy computed may be in the options.
_SCALARS = [(getattr(np, "_core", None) or np.core).multiarray.scalar, np.dtype,
            *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}]


def _bytes_of(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def digest(optimizer):
    """16 bytes that differ when parameters, optimizer state or options such as the learning rate
    differ in a single bit."""
    fingerprint = hashlib.blake2b(digest_size=16)

    def add(value):
        if torch.is_tensor(value):
            fingerprint.update(_bytes_of(value))
        else:
            fingerprint.update(repr(value).encode())

    add(getattr(optimizer, "round", None))
    for group in optimizer.param_groups:
        for key in sorted(key for key in group if key != "params"):
            add(key)
            add(group[key])
    for p in _parameters(optimizer):
        add(p)
        state = optimizer.state.get(p, {})
        for key in sorted(state, key=str):
            add(key)
            add(state[key])
    return fingerprint.digest()


def dump(optimizer):
    """The replica as bytes."""
    parameters = _parameters(optimizer)
    buffer = io.BytesIO()
    torch.save({
        "round": getattr(optimizer, "round", None),
        "parameters": [p.detach().cpu() for p in parameters],
        "state": [_on_host(dict(optimizer.state.get(p, {}))) for p in parameters],
        "options": [{key: value for key, value in group.items() if key != "params"}
                    for group in optimizer.param_groups],
    }, buffer)
    return buffer.getvalue()


def load(optimizer, replica):
    """Takes over a replica from bytes, bit for bit. (``Optimizer.load_state_dict`` would cast
    state to the dtype of its parameter.)"""
    with torch.serialization.safe_globals(_SCALARS):
        loaded = torch.load(io.BytesIO(replica), weights_only=_is_of_torch(optimizer))
    with torch.no_grad():
        for p, value, state in zip(_parameters(optimizer), loaded["parameters"],
                                   loaded["state"]):
            p.copy_(value)
            _take_over(optimizer.state[p] if state else optimizer.state.get(p, {}), state,
                       p.device)
    for group, options in zip(optimizer.param_groups, loaded["options"]):
        group.update(options)
    if loaded["round"] is not None:
        optimizer.set_round(loaded["round"])


def _is_of_torch(optimizer):
    """Whether its state has tensors, numbers and the like only: somebody else's optimizer may keep
    objects of its own there."""
    return all(cls.__module__.partition(".")[0] in ("torch", "horovod_partial", "builtins")
               for cls in type(optimizer).__mro__)


def _on_host(state):
    return {key: value.cpu() if torch.is_tensor(value) else value
            for key, value in state.items()}


def _take_over(mine, theirs, device):
    for key in [key for key in mine if key not in theirs]:
        del mine[key]
    for key, value in theirs.items():
        old = mine.get(key)
        if torch.is_tensor(value) and torch.is_tensor(old) and old.shape == value.shape:
            old.copy_(value)
        elif torch.is_tensor(value) and value.dim() > 0:
            mine[key] = value.to(device)
        else:
            mine[key] = value
