"""Checks that the tensors of a file are those of a network."""

import torch

from utils.errors import UserError
from utils.files import load_torch_arrays


def check_state(state, model, path, fix, ignore=()):
    """Compares a state dict with a model, which may be on the meta device, by names and shapes.

    state: what the file holds; path, fix: the file and the command that fetches a good one, for the message;
    ignore: names that the file may have besides the model's.
    Returns the state dict without the ignored names, ready for strict loading.
    Raises UserError if the state is not a dict of tensors, or tensors are missing, unknown, or of another shape or kind.
    """
    network = type(model).__name__
    if not isinstance(state, dict):
        raise UserError(f"{path}: has no weights of {network}; for the right file: {fix}")
    state = {name: value for name, value in state.items() if name not in ignore}
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, value in state.items():
        if name not in expected:
            problems.append(f"{name} is unknown")
        elif not torch.is_tensor(value) or value.is_floating_point() != expected[name].is_floating_point():
            problems.append(f"{name} is not the same kind of tensor as the network's")
        elif value.shape != expected[name].shape:
            problems.append(f"{name} is {tuple(value.shape)}, in the network {tuple(expected[name].shape)}")
    if problems:
        count = f"{len(problems)} {'tensor' if len(problems) == 1 else 'tensors'}"
        raise UserError(f"{path}: not the weights of {network}: {problems[0]} ({count} wrong); for the right file: {fix}")
    return state


def load_published(build, path, fix):
    """The network that build() makes, float32 on the CPU in eval mode, with the tensors of a file.

    Raises UserError, with the command that fetches a good file, if it is missing, damaged, or of another network: a partly
    random network would still give results.
    """
    with torch.device("meta"):  # no memory and no random values: every tensor comes from the file
        model = build()
    model.load_state_dict(check_state(_tensors(path, fix), model, path, fix), assign=True)
    return model.float().eval()


def load_into(build, path, fix):
    """The same for a torchvision network made by `build(weights=None)`, which has more tensors than its file."""
    model = build(weights=None)
    model.load_state_dict(check_state(_tensors(path, fix), model, path, fix))
    return model.eval()


def _tensors(path, fix):
    """The state dict of a file, at its top or under `state_dict` or `model`, without DataParallel's prefix."""
    try:
        content = load_torch_arrays(path)
    except UserError as error:
        raise UserError(f"{error}; for the right file: {fix}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if isinstance(content, dict) and content and all(str(name).startswith("module.") for name in content):
        print(f"note: {path}: removed the prefix module. from the names of tensors")
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return content
