"""Many runs at once of pairs with recurrent networks, for which torch has operations that vmap does not know."""

import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import LinearVAE

SETTINGS = {"steps": 12, "batch_size": 20, "lr": 1e-2, "progress": False}


class Recurrent(LinearVAE):
    """Its encoder reads the features one by one."""

    def __init__(self, kind):
        super().__init__(4, 2)
        self.path = kind(1, 3, batch_first=True)

    def guide(self, x):
        states, _ = self.path(x.unsqueeze(-1))
        super().guide(x + states[..., -1, :1])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_each_run_is_what_it_is_alone(kind):
    x = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))

    def norms(pair, batch, step=None):
        states, _ = pair.path(batch.unsqueeze(-1))
        value = -(states[:, -1] - 0.5).square().sum(-1)
        return value, value.mean()

    enabled = torch.backends.mkldnn.enabled
    runs = ppvae.fit_many(lambda: Recurrent(kind), x, norms, seeds=2, **SETTINGS)
    assert torch.backends.mkldnn.enabled == enabled
    for seed, pair in enumerate(runs.pairs):
        torch.manual_seed(seed)
        other = Recurrent(kind)
        ppvae.fit(other, x, norms, compile=False, **SETTINGS)
        torch.testing.assert_close(pair.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_weights_may_be_flattened_in_each_call(kind):
    """It reads the list that the network keeps of its parameters, which its call alone brings up to date."""

    class Flattening(Recurrent):
        def guide(self, x):
            self.path.flatten_parameters()
            super().guide(x)

    x = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))
    found, expected = [
        ppvae.fit_many(lambda pair=pair: pair(kind), x, seeds=2, **SETTINGS).pairs for pair in (Flattening, Recurrent)
    ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
