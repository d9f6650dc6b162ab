"""Patch the activations of one run into another, layer by layer: where is the answer in a small transformer?

Usage: ``python examples/patch_activations.py``.
"""

import torch
from torch import nn

import fxfeat

LAYERS, WIDTH, WORDS = 4, 32, 8


class Transformer(nn.Module):
    """A few blocks that read some tokens and score the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True) for _ in range(LAYERS))
        )
        self.head = nn.Linear(WIDTH, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Score the token that comes next."""
        return self.head(self.blocks(self.embed(tokens))[:, -1])


def main() -> list[list[float]]:
    """Print how much of the clean answer comes back where one position of one layer is patched."""
    torch.manual_seed(0)
    model = Transformer().eval()
    clean = torch.randint(0, 50, (1, WORDS))
    corrupt = clean.clone()
    corrupt[0, 2] = (corrupt[0, 2] + 7) % 50

    names = [f"blocks.{layer}" for layer in range(LAYERS)]
    with torch.no_grad():
        kept = fxfeat.create_feature_extractor(model, [*names, "output"], example_inputs=clean)(clean)
        answer = kept["output"].argmax()
        low, high = model(corrupt)[0, answer], kept["output"][0, answer]
        patches = {name: Patch(kept[name]) for name in names}
        extractors = {
            name: fxfeat.create_feature_extractor(
                model, ["output"], example_inputs=corrupt, replace={name: patches[name]}
            )
            for name in names
        }
        restored = []
        for name in names:
            row = []
            for position in range(WORDS):
                patches[name].position.fill_(position)
                score = extractors[name](corrupt)["output"][0, answer]
                row.append(float((score - low) / (high - low)))
            restored.append(row)
            print(f"{name:10} " + " ".join(f"{share:6.2f}" for share in row))
    return restored


class Patch(nn.Module):
    """Puts what another run had at one position into this one."""

    def __init__(self, other: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("other", other)
        self.register_buffer("position", torch.tensor(0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Exchange one position."""
        is_there = torch.arange(features.shape[1]) == self.position
        return torch.where(is_there[None, :, None], self.other, features)


if __name__ == "__main__":
    main()
