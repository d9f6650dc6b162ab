"""List the names of a torchvision model's nodes, and what a shortened name stands for.

Usage: ``python examples/list_names.py [model [part]]``, for instance ``resnet18 layer4``.
"""

import sys

import torchvision

import fxfeat


def main(model_name: str = "resnet18", part: str = "") -> None:
    """Print the names in columns, those of train mode apart where they differ."""
    model = torchvision.models.get_model(model_name, weights=None)
    train_names, eval_names = fxfeat.get_graph_node_names(model, suppress_diff_warning=True)

    wanted = [name for name in eval_names if part in name]
    which = f"; these hold {part!r}:" if part else ":"
    print(f"{model_name} has {len(eval_names)} nodes in eval mode{which}")
    print_columns(wanted)

    only_train = [name for name in train_names if name not in set(eval_names) and part in name]
    if only_train:
        print("\nIn train mode only:")
        print_columns(only_train)

    child = list(dict(model.named_children()))[-2]
    extractor = fxfeat.create_feature_extractor(model, [child])
    print(f"\nThe path of a module works too, and means what that module returned. {child!r} gives:\n")
    print(extractor.code)


def print_columns(names: list[str], width: int = 110) -> None:
    """Print names side by side, as many as fit."""
    cell = max(map(len, names), default=0) + 2
    count = max(1, width // cell)
    for start in range(0, len(names), count):
        print("".join(name.ljust(cell) for name in names[start : start + count]).rstrip())


if __name__ == "__main__":
    main(*sys.argv[1:])
