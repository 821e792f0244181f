"""What autograd keeps for the backward pass, counted tensor by tensor."""

import contextlib

import torch


@contextlib.contextmanager
def kept(model):
    """Within the block: a list that ends with the bytes of each storage kept, the model's own weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages, sizes = {}, []

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes
    sizes += [size for size, _ in storages.values()]
