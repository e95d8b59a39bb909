"""A pair's runs, guide first: K particles at dim -2, discrete sites of the model summed out exactly.

Everything a pair is asked (weights, bounds, reconstructions) is read from the two traces made here.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ppvae.batches import Batch, num_rows
from ppvae.internals import eliminate
from ppvae.kinds import is_sphere
from ppvae.model_and_guide import ModelAndGuide
from ppvae.particles import run
from ppvae.precise_draws import PreciseDraws
from ppvae.refusals import family
from ppvae.sites import is_enumerated, log_prob_terms, sample_sites, wrapped
from ppvae.threads import exclusive

FIRST_ENUMERATION_DIM = -3


@dataclass(frozen=True)
class Joint:
    """One run of guide and model: K particles for each of B data points, the model's discrete sites enumerated."""

    guide: Trace
    model: Trace
    shape: tuple[int, int]
    """`(K, B)`"""

    def log_q_terms(self, without: Container[str] = ()) -> dict[str, Tensor]:
        """`log q` of each guide site, `[K, B]` (with enumeration dims to the left where the guide is enumerated)."""
        return {name: self._expand(t) for name, t in log_prob_terms(self.guide, without).items()}

    def log_p_terms(self, without: Container[str] = ()) -> dict[str, Tensor]:
        """`log p` of each model site, `[K, B]`.

        Sites that enumeration ties together are one term, their names joined by commas: the log of a sum of products,
        taken by variable elimination. Dims that the guide enumerates stay, to the left.
        """
        terms = self._model_terms(without)
        own = (site for name, site in sample_sites(self.model).items() if name not in self.guide.nodes)
        summed_out = any(is_enumerated(site) for site in own)
        tied = {name: t for name, t in terms.items() if t.dim() > 2} if summed_out else {}
        result = {name: self._expand(t) for name, t in terms.items() if name not in tied}
        if tied:
            result[",".join(tied)] = self._expand(self._eliminate(list(tied)))
        return result

    def log_posterior(self, name: str, without: Container[str] = ()) -> Tensor:
        """`log p(c | x, z)` of the summed-out values c on which a model site depends: `[..., K, B]`, a dim for each.

        Values of the sites in `without` are taken as unknown: without the observed ones it is `log p(c | z)`.
        """
        terms = self._model_terms()
        if terms[name].dim() <= 2:
            return terms[name].new_zeros(self.shape)
        tied = [tied for tied, term in terms.items() if term.dim() > 2 and tied not in without]
        log_p = self._expand(self._eliminate(tied, keep=name))
        return log_p - log_p.logsumexp(tuple(range(log_p.dim() - 2)), keepdim=True)

    def expected(self, name: str, without: Container[str] = ()) -> Tensor:
        """`E[x | z]` of a model site, `[K, B, *event]`; summed-out values are weighed by `log_posterior`.

        Of a distribution whose mean takes draws, as it says by `mean_is_drawn`, and of vectors of length one, it is
        one draw of x for each of z.

        Raises:
            NotImplementedError: its distribution has no mean.
        """
        fn = sample_sites(self.model)[name]["fn"]
        *_, inner = wrapped(fn)
        try:
            drawn = getattr(inner, "mean_is_drawn", False) or is_sphere(fn)  # Pyro's mean of these is of length one
            mean = fn.sample() if drawn else fn.mean
        except NotImplementedError:
            mean = None
        if mean is None or mean.isnan().any():
            raise NotImplementedError(
                f"model site '{name}' has no mean, as {family(fn)} has none; draw from p(x | z) instead, as the group "
                "'posterior_predictive' of ppvae.to_arviz does"
            )
        return self.averaged(name, mean, without)

    def averaged(self, name: str, values: Tensor, without: Container[str] = ()) -> Tensor:
        """What a model site's distribution has for each value that is summed out, averaged over these: `[K, B, *]`.

        Args:
            name: of the site.
            values: `[..., K, B, *]`, with a dimension for each of those that is summed out, as its batch shape has.
            without: as in `log_posterior`.
        """
        batch_shape = sample_sites(self.model)[name]["fn"].batch_shape
        own = values.shape[len(batch_shape) :]
        posterior = self.log_posterior(name, without).exp()
        weighted = posterior.reshape(*posterior.shape, *(1,) * len(own)) * values
        return weighted.sum_to_size(*self.shape, *own)

    def _model_terms(self, without: Container[str] = ()) -> dict[str, Tensor]:
        """Log probability of each model site, those that are summed out without their masks."""
        return log_prob_terms(self.model, without, summed_out=self.model.nodes.keys() - self.guide.nodes.keys())

    def _eliminate(self, names: list[str], keep: str | None = None) -> Tensor:
        """The log of the summed product of the model's terms `names`; the dims of term `keep` stay."""
        return eliminate(self.guide, self.model, names, keep, sample_sites(self.guide))

    def _expand(self, term: Tensor) -> Tensor:
        return term.expand(*term.shape[:-2], *self.shape)


@exclusive
def trace_pair(pair: ModelAndGuide, batch: Batch, num_particles: int, *, enumerate_guide: bool = False) -> Joint:
    """Runs the guide, then the model on the guide's latents, with K particles in an outer plate at dim -2.

    Args:
        pair: the model and guide.
        batch: B data points.
        num_particles: K.
        enumerate_guide: give the guide's discrete sites all their values in turn (dims left of -2) instead of drawing.
    """
    guide_trace = trace_guide(pair, batch, num_particles, enumerated=enumerate_guide)
    return with_model(guide_trace, pair, batch, num_particles)


def trace_guide(pair: ModelAndGuide, batch: Batch, num_particles: int, *, enumerated: bool = False) -> Trace:
    """The first of these two runs."""
    with EnumMessenger(FIRST_ENUMERATION_DIM), _enumerating(lambda name: enumerated):
        return run(pair, "guide", batch, num_particles)


def with_model(guide_trace: Trace, pair: ModelAndGuide, batch: Batch, num_particles: int) -> Joint:
    """The second one, which comes right after the first: its enumeration dims follow on the guide's."""
    # Replay comes last: plates and enumeration must see the sites whose values it gives, for these may depend on an
    # enumerated one.
    with poutine.replay(trace=guide_trace), EnumMessenger(), _enumerating(lambda name: name not in guide_trace):
        model_trace = run(pair, "model", batch, num_particles)
    return Joint(guide_trace, model_trace, (num_particles, num_rows(batch)))


@exclusive
def trace_model(
    pair: ModelAndGuide, batch: Batch, latents: Mapping[str, Tensor] = MappingProxyType({}), num_particles: int = 1
) -> Joint:
    """Runs the model alone: some latents as given, `[K, B, *event]`, other discrete ones enumerated, the rest drawn."""
    given = poutine.condition(data=dict(latents))
    with PreciseDraws(pair), EnumMessenger(FIRST_ENUMERATION_DIM), _enumerating(), given:
        model_trace = run(pair, "model", batch, num_particles)
    return Joint(Trace(), model_trace, (num_particles, num_rows(batch)))


def _enumerating(names: Callable[[str], bool] = lambda name: True) -> Any:
    """A handler that gives finite latent sites of certain names all their values, whatever the function says itself.

    Only whether these are expanded to the shape of the site's distribution is left to the function.
    """

    def config(site: Any) -> Any:
        finite = getattr(site["fn"], "has_enumerate_support", False) and not site["is_observed"]
        return {
            "enumerate": "parallel" if finite and names(site["name"]) else None,
            "num_samples": None,
            "expand": site["infer"].get("expand", False),
        }

    return poutine.infer_config(config_fn=config)


@exclusive
def draw_latents(pair: ModelAndGuide, batch: Batch, num_particles: int) -> dict[str, Tensor]:
    """Draws from the guide by site, `[K, B, *event]`."""
    sites = sample_sites(run(pair, "guide", batch, num_particles), observed=False)
    shape = (num_particles, num_rows(batch))
    return {name: site["value"].expand(*shape, *site["fn"].event_shape) for name, site in sites.items()}
