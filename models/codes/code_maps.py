"""Convolutions over maps of vectors `[*, H, W, D]`, as codes are, to and from images `[*, C, H, W]`."""

from torch import Tensor, nn

from ppvae.networks import Fold


class Movedim(nn.Module):
    """A dimension moved to another place."""

    def __init__(self, source: int, destination: int):
        super().__init__()
        self.source, self.destination = source, destination

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.source, self.destination)


def over_maps(*layers: nn.Module, vectors_last: bool = True) -> nn.Module:
    """Layers on `[N, C, H, W]`, for maps `[*, H, W, D]`; to such maps, or else to `[*, C, H, W]`."""
    last = [Movedim(1, -1)] if vectors_last else []
    return Fold(nn.Sequential(Movedim(-1, 1), *layers, *last), event_dim=3)


def encoder_to_maps(num_in: int, channels: int, num_halvings: int) -> nn.Module:
    """Strided 3x3 convolutions, each of which halves height and width: `[*, C, H, W] -> [*, H', W', channels]`."""
    layers: list[nn.Module] = []
    for n in [num_in, *[channels] * (num_halvings - 1)]:
        layers += [nn.Conv2d(n, channels, 3, 2, 1), nn.ReLU()]
    return Fold(nn.Sequential(*layers, Movedim(1, -1)), event_dim=3)


def decoder_of_maps(num_in: int, channels: int, shape: tuple[int, int, int], num_halvings: int) -> nn.Module:
    """3x3 convolutions, with upsampling between them: `[*, H', W', D] -> [*, C, H, W]`."""
    num_out, *size = shape
    layers: list[nn.Module] = [nn.Conv2d(num_in, channels, 3, padding=1), nn.ReLU()]
    for level in reversed(range(num_halvings)):
        target = tuple(-(-side // 2**level) for side in size)
        layers += [nn.Upsample(target, mode="bilinear"), nn.Conv2d(channels, channels if level else num_out, 3, 1, 1)]
        layers += [nn.ReLU()] if level else []
    return over_maps(*layers, vectors_last=False)
