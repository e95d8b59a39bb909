"""A pair whose guide has a second encoder: what a larger network would gain, whatever the first one is."""

from typing import Any

from ppvae.batches import Batch, call
from ppvae.inference.ledger.local_guide import LocalGuide, Unscaled
from ppvae.inference.ledger.of_data import OfData
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair


class SecondEncoder(Pair):
    """A pair whose guide's distributions a network of the data moves within their families, as a `LocalGuide`'s.

    Before training it is the pair itself.

    Args:
        pair: the model and guide; its parameters are shared.
        batch: training data, as the pair takes them.
    """

    def __init__(self, pair: Pair, batch: Batch):
        super().__init__()
        self.local = LocalGuide(pair, rows_or_all(pair, batch, slice(2)))
        self.particles, self.guide_leads = pair.particles, pair.guide_leads
        zeros = self.local.zeros(batch)
        like = next(iter(zeros.values()))
        self.encoder = OfData(batch, {name: t.shape[1:] for name, t in zeros.items()}, like)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        with Unscaled():
            return self.local.pair.model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        batch = kwargs or (args if len(args) > 1 else args[0])
        return call(self.local.guide, self.local.with_offsets(batch, self.encoder(batch)))
