"""What the KL of a guide from the prior is made of: mutual information, total correlation, and each dimension's KL."""

from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Normal

from ppvae.arguments import Count, Seed, checked
from ppvae.batches import num_rows
from ppvae.conversion import to_pair
from ppvae.inference.diagnostics.halves import with_errors
from ppvae.inference.objectives.aggregate import Posteriors, is_independent_normal, log_aggregate, only_site
from ppvae.inference.runtime.measuring import measuring
from ppvae.pair import Pair
from ppvae.refusals import ContractError, family
from ppvae.tracing import trace_pair

HALVES = 20
LEAST = 8
"""Data points, so that halves have others."""

CHUNK = 100
"""Data points whose draws are scored at once."""


@checked
def kl_split(
    pair: Pair,
    data: Any,
    over: Literal["law", "data"] = "law",
    num_samples: Count = 1,
    *,
    seed: Seed | None = None,
) -> pd.DataFrame:
    """`E KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))`, exactly.

    The *mutual information* is what the latents say about the data, the *total correlation* what they say about each
    other, and the rest how far each by itself is from the prior. q(z), the aggregate posterior, is the mean of q(z | x)

    - over "data": these N data points, all of them, so that only draws of z make noise. The mutual information is then
      that with the index of the data point, at most log N;
    - over the "law" that they are drawn from, by nested Monte Carlo: a data point's q(z) is the mean over the other
      N - 1. Its log is biased low, by about c / N: the mutual information comes out too high. The column `bias` is
      what half as many data points would change, estimated from halves: about what is left of the bias at N.

    Standard errors are of the delete-half jackknife over data points, and include that of the draws.

    Source: Hoffman & Johnson 2016; Chen et al. 2018 (arXiv:1802.04942).

    Args:
        pair: the model and guide; a single latent site, independent in prior and guide, Gaussian in the guide.
        data: N data points. Time and memory grow with N^2.
        over: what q(z) is the mean over.
        num_samples: K, draws of z for each.
        seed: makes the result reproducible and leaves the caller's generators as they were.

    Returns:
        A data frame of `nats`, `std_error` and `bias` over "KL", "mutual information", "total correlation", "KL of
        dimensions", and "KL of z[j]".

    Raises:
        EvidenceUndefined: the pair declares that it has no density.
        ContractError: a guide or a prior of another form.
        ValueError: fewer than 8 data points.

    Example:
        >>> from ppvae.models import LinearVAE
        >>> _ = torch.manual_seed(0)
        >>> pair = LinearVAE(num_features=5, num_latents=2)
        >>> nats = kl_split(pair, pair.sample(100), seed=0).nats
        >>> parts = nats[["mutual information", "total correlation", "KL of dimensions"]].sum()
        >>> bool(abs(parts - nats["KL"]) < 1e-6)
        True
    """
    with measuring(pair, data, seed) as points:
        batch = to_pair(points, pair)
        if (num := num_rows(batch)) < LEAST:
            raise ValueError(f"data: found {num} data points, expected {LEAST} or more, to halve them")
        joint = trace_pair(pair, batch, num_samples)
        name, site = only_site(pair, joint.guide)
        prior: Any = joint.model.nodes[name]["fn"]
        if not is_independent_normal(prior):
            raise ContractError(
                f"{type(pair).__name__}.model: found the prior {family(prior)} at site '{name}', expected independent "
                "Gaussian numbers, Normal(...).to_event(1), as the KL is split by dimension"
            )
        shape = (num_samples, num, *prior.event_shape)
        fns = (site["fn"], prior)
        parts = [t.expand(shape)[0] for fn in fns for t in (fn.mean, fn.stddev)] + [*site["value"].expand(shape)]
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    packed = torch.stack(parts, 1).double().cpu()
    whole, errors, at_half = with_errors(partial(_terms, over), [packed], HALVES, generator)
    bias = {term: at_half[term] - nats for term, nats in whole.items()}
    return pd.DataFrame({"nats": whole, "std_error": errors, "bias": bias})


def _terms(over: str, packed: Tensor) -> dict[str, float]:
    """The terms, of N data points' posteriors, priors and draws, `[N, 4 + K, D]`."""
    loc, scale, prior_loc, prior_scale, *draws = packed.unbind(1)
    found = Posteriors(loc, scale, torch.stack(draws))
    log_p = Normal(prior_loc, prior_scale).log_prob(found.z)
    log_q = Normal(loc, scale).log_prob(found.z).sum(-1)
    log_whole, log_margins = aggregate(found, over)
    of_dimensions = (log_margins - log_p).mean((0, 1))
    return {
        "KL": (log_q - log_p.sum(-1)).mean().item(),
        "mutual information": (log_q - log_whole).mean().item(),
        "total correlation": (log_whole - log_margins.sum(-1)).mean().item(),
        "KL of dimensions": of_dimensions.sum().item(),
        **{f"KL of z[{j}]": nats.item() for j, nats in enumerate(of_dimensions)},
    }


def aggregate(found: Posteriors, over: str) -> tuple[Tensor, Tensor]:
    """`log q(z)` and `log q(z_j)` at all draws, over the data or, without each draw's own data point, their law."""
    num = len(found.loc)
    shares = torch.full((num, num), 1 / num, dtype=found.loc.dtype)
    if over == "law":
        shares = shares.fill_diagonal_(0.0) * (num / (num - 1))
    whole, margins = [], []
    for few in torch.arange(num).split(CHUNK):
        part = log_aggregate(Posteriors(found.loc, found.scale, found.z[:, few]), shares[few].log())
        whole.append(part[0])
        margins.append(part[1])
    return torch.cat(whole, 1), torch.cat(margins, 1)
