"""What the ELBO is made of: the expected log likelihood, and what each latent site pays and is used for."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ppvae.arguments import Count, Distributed, Seed, checked
from ppvae.batches import Batch, num_rows, some_rows
from ppvae.contract import check_shapes
from ppvae.conversion import to_pair
from ppvae.inference.evidence.heavy_tails import mean_with_tail, warning_of_heavy_tails
from ppvae.inference.ledger.latent_usage import MOST_POINTS, LatentUsage, active_units, mutual_information
from ppvae.inference.objectives.dependencies import separable
from ppvae.inference.runtime.chunks import mean_with_error, over_data, sizes
from ppvae.inference.runtime.measuring import finite, measuring
from ppvae.inference.runtime.records import Measurement
from ppvae.inference.runtime.sharing import measurement
from ppvae.own_rows import rows_or_all
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.sites import refuse_other_latents, sample_sites, where_there
from ppvae.tracing import Joint, trace_pair
from ppvae.weights import log_weight, sum_terms, weights_of
from ppvae.wording import counted, figures

ELBO, LIKELIHOOD = "estimate", "expected log likelihood"
"""Keys of the results; the keys of sites all contain a slash."""


@checked
@dataclass(frozen=True)
class ElboTerms:
    """The ELBO of a pair on a data set, site by site; per data point and with standard errors.

    `elbo = expected_log_likelihood - sum of latents[site].kl`, exactly, for each data point, as all are means over the
    same draws; so their errors are not independent.

    Attributes:
        pair: the name of the pair's class.
        elbo: the sum.
        expected_log_likelihood: `E_q log p(x | z)`.
        latents: what each site of the guide pays and is used for, by name, in the guide's order; sites that an exact
            summation ties together are one, their names joined by commas.
    """

    pair: str
    elbo: Measurement
    expected_log_likelihood: Measurement
    latents: Mapping[str, LatentUsage]

    @property
    def collapsed(self) -> tuple[str, ...]:
        """The sites that carry next to nothing."""
        return tuple(name for name, usage in self.latents.items() if usage.collapsed)

    def summary(self) -> pd.DataFrame:
        """The table: for each term nats per data point, the standard error over data points, and the Monte Carlo error.

        For latent sites also mutual information (nats), active and all dimensions, and whether they have collapsed.
        """
        means = {"E log p(x | z)": self.expected_log_likelihood.mean()}
        means |= {f"{usage.term} of {name}": usage.kl.mean() for name, usage in self.latents.items()}
        means |= {"ELBO": self.elbo.mean()}
        sites = list(self.latents.values())

        def of_sites(values: list[Any], dtype: str) -> Any:
            return pd.array([None, *values, None], dtype=dtype)

        return pd.DataFrame(
            {
                "nats": [mean.estimate for mean in means.values()],
                "std_error": [mean.std_error for mean in means.values()],
                "monte_carlo_error": [mean.monte_carlo_error for mean in means.values()],
                "mutual_information": of_sites([usage.mutual_information for usage in sites], "Float64"),
                "active_units": of_sites([usage.active_units for usage in sites], "Int64"),
                "num_units": of_sites([usage.num_units for usage in sites], "Int64"),
                "collapsed": of_sites([usage.collapsed for usage in sites], "boolean"),
            },
            index=pd.Index(list(means), name=f"{self.pair}, {counted(len(self.elbo.estimate), 'data point')}"),
        )

    def __str__(self) -> str:
        table = self.summary()
        said = [figures(table, na_rep="")]
        if self.collapsed:
            said.append(f"Collapsed: {', '.join(self.collapsed)}.")
        if self.elbo.warning:
            said.append(f"To note: {self.elbo.warning}.")
        near = [usage for usage in self.latents.values() if usage.mutual_information > usage.most_information - 1]
        if near:
            most = near[0].most_information
            said.append(f"Mutual information may be larger: this many data points show at most {most:.2f} nats of it.")
        return "\n".join(said)


@checked
@measurement
def elbo_terms(
    pair: Pair,
    data: Any,
    num_samples: Count = 100,
    *,
    seed: Seed | None = None,
    progress: bool = True,
    distributed: Distributed = False,
) -> ElboTerms:
    """The terms of the ELBO, `E_q log p(x | z) - sum_l E_q[log q(z_l | .) - log p(z_l | .)]`, by S draws of the guide.

    They add up to the ELBO in whatever order a guide draws its sites. A site's term is an expected KL divergence unless
    a site that it depends on in the model depends on it in the guide, as in a bottom-up guide: then it may be negative,
    and the active dimensions tell whether the site has collapsed. Mutual information is estimated from at most 200 data
    points, and cannot exceed the log of their number. Discrete sites of the guide are drawn; `ppvae.elbo` sums them.

    Source: Hoffman & Johnson 2016 (ELBO surgery); active dimensions: Burda et al. 2016 (arXiv:1509.00519).

    Args:
        pair: the model and guide; measured in eval mode, where its parameters are.
        data: N data points, a batch (tensor, tuple or dict).
        num_samples: S. Memory grows with it by one number per site, draw and data point.
        seed: makes the result reproducible and leaves the caller's generators as they were; None draws from them.
        progress: show a bar when it takes more than a second.
        distributed: as in `log_evidence`, share the work among the processes of torch's process group.

    Raises:
        EvidenceUndefined: the pair declares that it has no evidence.
        ValueError: S < 1, or data that are not finite or outside the likelihood's support (the row is named).

    Example:
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(num_features=64, num_latents=[8, 4], hidden=[50])
        >>> terms = elbo_terms(pair, torch.rand(20, 64).round(), progress=False)
        >>> terms.summary().index.tolist()
        ['E log p(x | z)', 'KL of z1', 'KL of z2', 'ELBO']
    """
    with measuring(pair, data, seed) as batch:
        return elbo_terms_of(pair, batch, num_samples, progress)


def elbo_terms_of(pair: Pair, batch: Batch, num_samples: int, progress: bool) -> ElboTerms:
    """`elbo_terms` within `measuring`."""
    two = to_pair(rows_or_all(pair, batch, slice(2)), pair)
    joint = trace_pair(pair, two, 1)
    latent, tied = _latent_terms(joint)
    measure = partial(_measured, pair, sample_sites(joint.guide), latent)
    found = finite(over_data(pair, batch, num_samples, measure, "elbo terms" if progress else None))
    chosen = some_rows(num_rows(batch), MOST_POINTS)
    try:
        information = mutual_information(pair, to_pair(rows_or_all(pair, batch, chosen), pair)) if latent else {}
    except ContractError:  # the guide knows the density only of its own draws
        information = dict.fromkeys((site for sites in latent.values() for site in sites), math.nan)
    kls = separable(pair, two)

    def record(key: str, method: str, warning: str = "") -> Measurement:
        return Measurement(found[key], found[f"{key}/error"], num_samples, method, warning)

    return ElboTerms(
        pair=type(pair).__name__,
        elbo=record(ELBO, "elbo", warning_of_heavy_tails(found["khat"], found[f"{ELBO}/error"], num_samples)),
        expected_log_likelihood=record(LIKELIHOOD, "expected log likelihood", tied),
        latents={
            ",".join(sites): LatentUsage(
                kl=record(f"{term}/kl", f"kl of {','.join(sites)}"),
                mutual_information=information[sites[0]] if len(sites) == 1 else math.nan,
                most_information=math.log(len(chosen)),
                active_units=active_units(found[f"{term}/z"], found[f"{term}/noise"]),
                num_units=found[f"{term}/z"].shape[1],
                is_kl=kls.issuperset(sites),
            )
            for term, sites in latent.items()
        },
    )


def _latent_terms(joint: Joint) -> tuple[dict[str, list[str]], str]:
    """The guide's sites in each term of log p without observations, and a warning about the others."""
    terms = {site: term for term in joint.log_p_terms() for site in term.split(",")}
    with_observation = {terms[site] for site in sample_sites(joint.model, observed=True)}
    found: dict[str, list[str]] = {}
    tied: list[str] = []
    for site in sample_sites(joint.guide):
        (tied if terms[site] in with_observation else found.setdefault(terms[site], [])).append(site)
    said = f"it includes log p - log q of latent sites {tied}, as an exact summation ties them to the observation"
    return found, said if tied else ""


def _measured(
    pair: Pair,
    latents: Collection[str],
    latent: dict[str, list[str]],
    points: Batch,
    num_draws: int,
    at_once: int,
) -> dict[str, Tensor]:
    """The mean of each term and its error; for each latent, an estimate of its posterior mean, and its variance, NaN
    where it is not there."""
    draws: dict[str, list[Tensor]] = defaultdict(list)
    sums: dict[str, Tensor] = {}  # of ones, of z and of its square, where z is there
    for size in sizes(num_draws, at_once):
        joint = trace_pair(pair, points, size)
        check_shapes(joint)
        weights = weights_of(joint)
        refuse_other_latents(weights.latents, latents)
        log_p, log_q = (
            {site: t.double() for site, t in each.items()} for each in (weights.log_p_sites, weights.log_q_sites)
        )
        elbo = expected = log_weight(log_p, log_q)
        for term, sites in latent.items():
            kl = sum_terms({site: log_q[site] for site in sites}) - log_p[term]
            expected = expected + kl
            draws[f"{term}/kl"].append(kl)
            values = [where_there(joint.guide.nodes[site], weights.latents[site].double(), math.nan) for site in sites]
            z = torch.cat([value.reshape(*kl.shape, -1) for value in values], -1)
            sums[term] = sums.get(term, 0) + torch.stack([~z.isnan(), z, z.square()]).nansum(1)
        draws[ELBO].append(elbo)
        draws[LIKELIHOOD].append(expected)
    of_elbo = mean_with_tail(torch.cat(draws.pop(ELBO)))
    found = {ELBO: of_elbo["estimate"], f"{ELBO}/error": of_elbo["std_error"], "khat": of_elbo["khat"]}
    for key, pieces in draws.items():
        of_key = mean_with_error(torch.cat(pieces))
        found |= {key: of_key["estimate"], f"{key}/error": of_key["std_error"]}
    for term, (num, total, square) in sums.items():
        mean = total / num
        found |= {f"{term}/z": mean, f"{term}/noise": (square / num - mean.square()) / (num - 1)}
    return found
