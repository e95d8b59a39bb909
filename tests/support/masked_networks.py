"""Small masked networks of each kind, away from their start, and all data that they can have."""

import torch

from ppvae.models import (
    MADE,
    Autoregressive,
    DiagonalBiLSTM,
    GatedPixelCNN,
    MaskedNetwork,
    PixelCNN,
    PixelSNAIL,
    RowLSTM,
)

ORDER = [4, 0, 8, 2, 6, 1, 7, 3, 5]
BITS = {
    "MADE": lambda **k: MADE(9, 2, [12, 15], **k),
    "MADE, ordered": lambda **k: MADE(9, 2, [9, 20], ORDER, **k),
    "PixelCNN": lambda **k: PixelCNN((1, 3, 3), 2, 8, 2, 1, **k),
    "Gated PixelCNN": lambda **k: GatedPixelCNN((1, 3, 3), 2, 8, 2, 1, **k),
    "Row LSTM": lambda **k: RowLSTM((1, 3, 3), 2, 8, 2, 1, **k),
    "Diagonal BiLSTM": lambda **k: DiagonalBiLSTM((1, 3, 3), 2, 8, 1, 1, **k),
    "PixelSNAIL": lambda **k: PixelSNAIL((1, 3, 3), 2, 8, 2, 2, 0, 0, **k),
}
"""Nine bits: vectors, or images of 3x3."""

OTHERS = {
    "MADE of levels, narrow": lambda **k: MADE(5, 3, [4], **k),
    "PixelCNN of codes": lambda **k: PixelCNN((2, 3), 3, 8, 1, 1, **k),
    "Gated PixelCNN of codes": lambda **k: GatedPixelCNN((3, 2), 3, 8, 2, 1, **k),
    "PixelSNAIL of codes": lambda **k: PixelSNAIL((3, 2), 3, 8, 1, 2, 1, **k),
    "Row LSTM in color": lambda **k: RowLSTM((2, 2, 2), 2, 8, 1, 1, **k),
    "Diagonal BiLSTM in color": lambda **k: DiagonalBiLSTM((2, 2, 2), 2, 8, 1, 1, **k),
    "PixelSNAIL in color": lambda **k: PixelSNAIL((2, 2, 2), 2, 8, 2, 2, 1, 1, **k),
    "PixelCNN in color": lambda **k: PixelCNN((3, 1, 2), 3, 12, 1, 1, **k),
    "Gated PixelCNN in color": lambda **k: GatedPixelCNN((2, 2, 2), 2, 8, 2, 1, **k),
}
NETWORKS = BITS | OTHERS


def moved(name: str, seed: int = 0, **settings) -> MaskedNetwork:
    """A network with parameters far from small."""
    torch.manual_seed(seed)
    network = NETWORKS[name](**settings)
    for p in network.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return network


def everything(network: MaskedNetwork) -> torch.Tensor:
    """All data that the network has a probability for, `[L^D, *event]`."""
    size, num = network.alphabet.size, len(network.order)
    index = torch.cartesian_prod(*[torch.arange(size)] * num).reshape(-1, *network.event_shape)
    return network.alphabet.value(index, torch.get_default_dtype())


def condition(network: MaskedNetwork, *leading: int) -> torch.Tensor:
    """Conditions `[*leading, num_condition, ...]` drawn at random."""
    space = network.event_shape[-2:] if len(network.event_shape) > 1 else ()
    return torch.randn(*leading, network.num_condition, *space)


def naive(p: Autoregressive, num: int) -> torch.Tensor:
    """Draws by a pass over all entries for each of them."""
    own = type(p.network)
    step, own.step = own.step, MaskedNetwork.step
    try:
        return p.sample((num,))
    finally:
        own.step = step
