"""Pictures of what a trained pair has learned, drawn on given matplotlib axes."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ppvae.arguments import Count, Real, Seed, Shape, checked
from ppvae.batches import Batch, map_batch, num_rows, rows
from ppvae.conversion import to_pair
from ppvae.inference.diagnostics.simulation_based_calibration import scalars
from ppvae.inference.runtime.chunks import evaluating
from ppvae.pair import Pair
from ppvae.refusals import ContractError
from ppvae.simulation import simulate
from ppvae.sites import sample_sites
from ppvae.tracing import trace_pair
from ppvae.views.decoding import (
    Tempered,
    activity,
    aggregated_draws,
    continuous_sites,
    decoded,
    first_row,
    guide_sites,
    image_site,
    log_prior,
    one_of,
    passed_through,
    planar_site,
    posterior_means,
    swept,
)
from ppvae.views.plots import GRID_POINTS, images, label_tiles
from ppvae.views.style import GRAY, color, styled
from ppvae.weights import weights_of

SEED = 0
GRID_IMAGES = 15  # of the manifold, each way
MOST_ROWS = 10  # of traversals
COLUMNS = 10  # of reconstructions, at most
MOSAIC = 6  # images of samples, each way
LEAST_DRAWS = 5000  # of the prior and the aggregated posterior
MASSES = (0.99, 0.9, 0.5)  # of the prior, within its contours


@checked
@styled
def manifold(ax: Axes, pair: Pair, shape: Shape) -> None:
    """The images that a 2-D latent decodes to, `E[x | z]`, over the plane of latents.

    At `z = (Phi^-1(u), Phi^-1(v))` for (u, v) on an even grid in the unit square, so that each image stands for an
    equal share of a standard normal prior. For another prior the images are right, but the shares are not.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), figure 4.

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1], whose guide has one latent site, of event shape [2].
        shape: `(H, W)` or `(C, H, W)` of the images.

    Raises:
        ContractError: other latents, or observations that are not such images.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import VAE
        >>> manifold(plt.figure().subplots(), VAE.mlp(64, 2, [20]), (8, 8))
    """
    with evaluating(pair, SEED):
        site = planar_site(pair, pair.examples(1))
        z = torch.special.ndtri((torch.arange(GRID_IMAGES, dtype=torch.float64) + 0.5) / GRID_IMAGES)
        up, across = torch.meshgrid(z.flip(0), z, indexing="ij")
        examples = pair.examples(GRID_IMAGES**2)
        plane = cast(Tensor, to_pair(torch.stack([across, up], -1).reshape(-1, 2), pair))
        images(ax, decoded(pair, examples, {site: plane}, shape), shape, GRID_IMAGES)
    ends = [0, GRID_IMAGES // 2, GRID_IMAGES - 1]
    label_tiles(ax, shape, {i: f"{z[i]:.1f}" for i in ends}, {GRID_IMAGES - 1 - i: f"{z[i]:.1f}" for i in ends})
    ax.set(xlabel=f"{site}[0]", ylabel=f"{site}[1]")


@checked
@styled
def traversals(ax: Axes, pair: Pair, data: Any, shape: Shape, site: str | None = None) -> None:
    """What each scalar of a latent does to the image, `E[x | z]`: a row for each, the most active first.

    The scalar sweeps from -3 to 3 standard deviations about the mean of its prior (in a hierarchy, of its distribution
    given the layers above). All other latents stay at their posterior means, except those below that depend on the
    swept one: they take the means of their distributions. Activity is the variance over x of the posterior mean. At
    most the ten most active scalars are shown.

    An angle goes around its circle, by its circular standard deviation, half a turn each way at most.

    Where scalars are correlated in the posterior, sweeping one alone leads to latents that no data have.

    Source: Higgins et al. 2017 (beta-VAE); activity: Burda et al. 2016 (arXiv:1509.00519).

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1], with continuous latents.
        data: data points; the first is traversed, and all determine how active each scalar is.
        shape: `(H, W)` or `(C, H, W)` of the images.
        site: the latent to traverse, where there are several.

    Raises:
        ContractError: discrete latents in the guide, or observations that are not such images.
        ValueError: no site named where there are several, or an unknown one, or fewer than two data points.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import MarkovHVAE
        >>> pair = MarkovHVAE.mlp(64, [4, 2], [20])
        >>> traversals(plt.figure().subplots(), pair, torch.rand(10, 64).round(), (8, 8), site="z2")
    """
    batch = pair.checked(data)
    if num_rows(batch) < 2:
        raise ValueError("data: found 1 data point, expected at least 2, to tell how active latents are; pass more")
    with evaluating(pair, SEED):
        first = first_row(pair, batch)
        site = one_of(continuous_sites(pair, first), site)
        means = posterior_means(pair, batch)
        order = activity(means[site]).argsort(descending=True)[:MOST_ROWS]
        repeated = map_batch(lambda t: t.expand(len(order), *t.shape[1:]), first)
        x_means = swept(pair, repeated, site, order, {name: mean[0] for name, mean in means.items()}, shape)
    images(ax, x_means.transpose(0, 1).flatten(end_dim=1), shape, columns=len(x_means))
    names = scalars(site, means[site].shape[1:])
    across: dict[float, str] = {0: "-3", len(x_means) // 2: "0", len(x_means) - 1: "3"}
    label_tiles(ax, shape, across, {row: names[entry] for row, entry in enumerate(order.tolist())})
    ax.set_xlabel("prior standard deviations")


@checked
@styled
def reconstructions(ax: Axes, pair: Pair, data: Any, shape: Shape) -> None:
    """Data, and below them their reconstructions: `E[x' | z]` at one draw `z ~ q(z | x)` each.

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1].
        data: data points; blanks fill up the last row.
        shape: `(H, W)` or `(C, H, W)` of the images.

    Raises:
        ContractError: observations that are not such images.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import VAE
        >>> x = torch.rand(20, 64).round()
        >>> reconstructions(plt.figure().subplots(), VAE.mlp(64, 2, [20]), x, (8, 8))
    """
    batch = pair.checked(data)
    with evaluating(pair, SEED):
        joint = trace_pair(pair, to_pair(batch, pair), 1)
        name = image_site(joint, shape)
        shown = [sample_sites(joint.model)[name]["value"], joint.expected(name)]
    columns = min(COLUMNS, num_rows(batch))
    blanks = -num_rows(batch) % columns
    rows = [torch.nn.functional.pad(v.reshape(num_rows(batch), -1), (0, 0, 0, blanks)) for v in shown]
    tiles = torch.stack([row.unflatten(0, (-1, columns)) for row in rows], dim=1)
    images(ax, tiles.flatten(end_dim=2), shape, columns)
    label_tiles(ax, shape, {}, {row: ("data", "reconstruction")[row % 2] for row in range(2 * len(tiles))})


@checked
@styled
def samples(ax: Axes, pair: Pair, shape: Shape, rerun: Count = 1, seed: Seed = 0) -> None:
    """Samples of the model, and beside them the same after some passes through encoder and decoder.

    Left: `E[x | z]` at `z ~ p(z)`. A pass takes `x ~ p(x | z)` to `z' ~ q(z | x)`; right: `E[x | z']` after the last.
    An exact guide leaves the distribution of (x, z) unchanged, so the right looks like the left. Where the right looks
    *better*, passes move z from where the prior puts it to where the guide puts data: the aggregated posterior is not
    the prior, and `aggregated_posterior` shows where. Likeness is no proof: an encoder that ignores x changes little
    too.

    Source: the Markov chain of Rezende et al. 2014 (arXiv:1401.4082), appendix F, without its data.

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1].
        shape: `(H, W)` or `(C, H, W)` of the images.
        rerun: how many passes.
        seed: of all draws; the caller's generators stay as they are.

    Raises:
        ContractError: no `pair.example`, no latents in the guide, or observations that are not such images.
        ValueError: rerun < 1.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import VAE
        >>> samples(plt.figure().subplots(), VAE.mlp(64, 2, [20]), (8, 8), rerun=2)
    """
    with evaluating(pair, seed):
        batch = map_batch(torch.Tensor.contiguous, pair.examples(MOSAIC**2))
        guide_sites(pair, batch)
        x, latents = simulate(pair, batch)
        before = decoded(pair, batch, latents, shape)
        for step in range(rerun):
            if step:
                x, _ = simulate(pair, x, latents)
            found = passed_through(pair, x)
            latents = {name: found[name] for name in latents}
        after = decoded(pair, batch, latents, shape)
    left, right = (mosaic.reshape(MOSAIC, MOSAIC, -1) for mosaic in (before, after))
    tiles = torch.cat([left, torch.zeros_like(left[:, :1]), right], dim=1)
    images(ax, tiles.flatten(end_dim=1), shape, columns=2 * MOSAIC + 1)
    passes = f"after {rerun} pass{'es' * (rerun > 1)} through\nencoder and decoder"
    label_tiles(ax, shape, {(MOSAIC - 1) / 2: "samples", MOSAIC + (MOSAIC + 1) / 2: passes}, {})
    ax.xaxis.tick_top()


@checked
@styled
def temperatures(
    ax: Axes, pair: Pair, shape: Shape, scales: Sequence[Real] = (0.4, 0.6, 0.8, 1.0), seed: Seed = 0
) -> None:
    """Samples `E[x | z]` with the model's latents drawn closer to their means: a row for each temperature t.

    Each continuous latent is `mean + t (z - mean)`, with mean and z from its distribution given the layers drawn above:
    the standard deviations of prior and transitions are multiplied by t. Noise is the same in all rows.

    What looks better at t < 1 is not a sample of the model and says nothing about its evidence: the model also puts
    mass where images look worse.

    Source: Kingma & Dhariwal 2018 (arXiv:1807.03039); for hierarchies, Vahdat & Kautz 2020 (arXiv:2007.03898).

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1].
        shape: `(H, W)` or `(C, H, W)` of the images.
        scales: the temperatures, 0 or more.
        seed: of the draws; the caller's generators stay as they are.

    Raises:
        ContractError: no `pair.example`, a latent whose distribution has no mean, or observations that are not such
            images.
        ValueError: a temperature below 0.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import MarkovHVAE
        >>> temperatures(plt.figure().subplots(), MarkovHVAE.mlp(64, [4, 2], [20]), (8, 8), scales=(0.5, 1.0))
    """
    if not len(scales) or min(scales) < 0:
        raise ValueError(f"scales: found {tuple(scales)}, expected one or more temperatures of at least 0")
    drawn = []
    for scale in scales:
        with evaluating(pair, seed):
            batch = pair.examples(COLUMNS)
            with Tempered(scale):
                _, latents = simulate(pair, batch)
            drawn.append(decoded(pair, batch, latents, shape))
    images(ax, torch.cat(drawn), shape, COLUMNS)
    label_tiles(ax, shape, {}, {row: f"t = {scale:g}" for row, scale in enumerate(scales)})


@checked
@styled
def resampled_layers(ax: Axes, pair: Pair, data: Any, shape: Shape, seed: Seed = 0) -> None:
    """What each layer of a hierarchy knows about the data: upper ones kept as the guide drew them, lower ones redrawn.

    Below the data, the first row keeps only the model's first latent site, `z_L ~ q(z_L | x)`, and draws the others
    from the model given it. Each further row keeps one more; the last keeps all, and is a reconstruction. Images are
    `E[x | z]`. Where a row looks like the data, the layers that it keeps hold what there is to see; where it looks like
    any sample, they hold nothing.

    Source: Sønderby et al. 2016 (arXiv:1602.02282) and Maaløe et al. 2019 (arXiv:1902.02102) show such pictures.

    Args:
        ax: where to draw.
        pair: a pair over images in [0, 1], whose guide has two latent sites or more.
        data: data points; at most the first ten are shown.
        shape: `(H, W)` or `(C, H, W)` of the images.
        seed: of the draws; the caller's generators stay as they are.

    Raises:
        ContractError: fewer than two latent sites in the guide, or observations that are not such images.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import MarkovHVAE
        >>> pair, x = MarkovHVAE.mlp(64, [4, 2], [20]), torch.rand(10, 64).round()
        >>> resampled_layers(plt.figure().subplots(), pair, x, (8, 8))
    """
    with evaluating(pair, seed):
        batch = to_pair(rows(pair.checked(data), slice(COLUMNS)), pair)
        joint = trace_pair(pair, batch, 1)
        data = sample_sites(joint.model)[image_site(joint, shape)]["value"]
        drawn = weights_of(joint).latents
        sites = [name for name in sample_sites(joint.model) if name in drawn]
        if len(sites) < 2:
            raise ContractError(
                f"{type(pair).__name__}.guide: found latent sites {sites}, expected two or more, to keep some and draw "
                "the others anew; look at ppvae.pictures.reconstructions instead"
            )
        shown = [data.reshape(num_rows(batch), -1)]
        for num_kept in range(1, len(sites) + 1):
            _, latents = simulate(pair, batch, {name: drawn[name][0] for name in sites[:num_kept]})
            shown.append(decoded(pair, batch, latents, shape))
    images(ax, torch.cat(shown), shape, num_rows(batch))
    label_tiles(ax, shape, {}, dict(enumerate(["data", sites[0], *(f"+ {name}" for name in sites[1:])])))


@checked
@styled
def aggregated_posterior(axes: Axes | Sequence[Axes], pair: Pair, data: Any) -> None:
    """The aggregated posterior `q(z) = mean over data of q(z | x)` against the prior p(z).

    On several axes: histograms of draws from both, a panel for each of the most active scalars of all latents (by the
    variance of the posterior mean, as a share of the prior's). On one, for one 2-D latent: draws from q(z), and
    contours within which 50, 90 and 99% of the prior lie.

    Where the two differ, samples of the model are decoded from latents that the decoder hardly saw. Equal histograms
    do not prove the joint distributions equal.

    Source: Hoffman & Johnson 2016 (ELBO surgery); Makhzani et al. 2015 (arXiv:1511.05644).

    Args:
        axes: one, or a sequence with one for each scalar to show.
        pair: a pair whose guide's latents are continuous.
        data: N data points.

    Raises:
        ContractError: discrete latents in the guide, or, on one axes, other than a single one of event shape [2].
        ValueError: more axes than scalars.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from ppvae.models import VAE
        >>> aggregated_posterior(plt.figure().subplots(1, 2), VAE.mlp(64, 5, [20]), torch.rand(30, 64).round())
    """
    batch = pair.checked(data)
    with evaluating(pair, SEED):
        sites = continuous_sites(pair, first_row(pair, batch))
        means = posterior_means(pair, batch)
        posterior = aggregated_draws(pair, batch, math.ceil(LEAST_DRAWS / num_rows(batch)))
        prior = pair.sample_joint(pair.examples(LEAST_DRAWS, batch), observed=False)
        if isinstance(axes, Axes):
            site = planar_site(pair, pair.examples(1, batch))
            return _plane(axes, pair, batch, site, posterior[site], prior[site])
    names = [name for site, event in sites.items() for name in scalars(site, event)]
    if not len(axes):
        raise ValueError(f"axes: found none, expected at least one of {names}")
    if len(axes) > len(names):
        raise ValueError(f"axes: found {len(axes)}, expected at most {len(names)}, one for each of {names}")
    q, p = (torch.cat([z[site].reshape(len(z[site]), -1).cpu() for site in sites], 1) for z in (posterior, prior))
    shares = torch.cat([activity(means[site]) for site in sites]) / p.var(0)
    for ax, entry in zip(axes, shares.argsort(descending=True).tolist(), strict=False):
        of_q = q[:, entry][~q[:, entry].isnan()]  # without the data points that do not have it
        both = torch.cat([of_q, p[:, entry]])
        bins = torch.linspace(both.quantile(0.001).item(), both.quantile(0.999).item(), 41).tolist()
        ax.hist(p[:, entry].numpy(), bins, density=True, color=GRAY, alpha=0.3, label="prior")
        ax.hist(
            of_q.numpy(),
            bins,
            density=True,
            histtype="step",
            lw=1.5,
            color=color(0),
            label="aggregated posterior",
        )
        ax.set(title=names[entry], yticks=[])
    axes[0].set(ylabel="density", ylim=(0, 1.35 * axes[0].get_ylim()[1]))  # with room for the legend
    axes[0].legend(loc="upper left")


def _plane(ax: Axes, pair: Pair, batch: Batch, site: str, posterior: Tensor, prior: Tensor) -> None:
    """Draws from the aggregated posterior, `[N, 2]`, and the prior's regions of highest density."""
    posterior = posterior[~posterior.isnan().any(-1)]
    extent = max(posterior.abs().max().item(), prior.abs().max().item())
    line = torch.linspace(-extent, extent, GRID_POINTS).to(prior)
    grid = torch.cartesian_prod(line, line)
    log_p = log_prior(pair, batch, site, grid).reshape(GRID_POINTS, GRID_POINTS).T.cpu()
    levels = log_prior(pair, batch, site, prior).quantile(1 - torch.tensor(MASSES).to(prior)).tolist()
    across, up = posterior.T.numpy()
    ax.scatter(across, up, s=3, alpha=0.3, lw=0, color=color(0), label="aggregated posterior")
    ax.contour(line.cpu(), line.cpu(), log_p, levels, colors="black", linewidths=0.8, linestyles="solid")
    ax.plot([], [], color="black", lw=0.8, label="prior: 50, 90, 99%")
    ax.set(xlabel=f"{site}[0]", ylabel=f"{site}[1]", aspect="equal")
    ax.legend(markerscale=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
