"""What emitted code calls of fxfeat's own, as text: a saved file brings it along."""

from __future__ import annotations

RUNTIME_TEXTS = {
    "leaves_fast_path": '''\
def leaves_fast_path(*tensors):
    """Say whether torch's own modules run their plain code on some tensors, and not a kernel that rounds otherwise."""
    if torch.is_autocast_enabled() or not torch.backends.mha.get_fastpath_enabled():
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
''',
    "read_flag": '''\
def read_flag(name):
    """Read a flag of torch."""
    value = torch
    for part in name.split("."):
        value = getattr(value, part)
    return value
''',
    "raised": '''\
def raised(function, *args, **kwargs):
    """Say which error a call ends in."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return "no error"
''',
    "clone_all": '''\
def clone_all(values):
    """Clone each tensor of a structure."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, values)
''',
}
"""Functions of ``fxfeat.runtime`` by name."""
