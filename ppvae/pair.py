"""The contract: a pair is a model p(x, z) and a guide q(z | x) over one plate at dim -1, the data plate."""

import logging
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Self, TypeVar

import pyro
import torch
from torch import Tensor, nn

from ppvae import contract, tracing
from ppvae.accepted import accepted, of_accepted
from ppvae.arguments import Count, NumberOrBatch, checked
from ppvae.batches import Batch, map_batch, named_batch, rows
from ppvae.checked_kinds import CheckedKinds
from ppvae.conversion import data_for, to_pair
from ppvae.devices import gpus, held_by
from ppvae.early_reads import refuse_early_reads
from ppvae.encoding import Encoding, moments, present_latents
from ppvae.existing import ExistingFunctions, example_for
from ppvae.explanations import refuse_unlike_example
from ppvae.mode import mode
from ppvae.own_rows import has_own_rows, refuse_other_rows, rows_or_all
from ppvae.parameters import refuse_hidden
from ppvae.particles import LEADING
from ppvae.recipes import Recipe, recipe_of
from ppvae.reconstruction import reconstructions
from ppvae.refusals import ContractError
from ppvae.row_chunks import over_rows
from ppvae.sites import is_enumerated, sample_sites
from ppvae.steps import Steps
from ppvae.threads import exclusive, undisturbed
from ppvae.unconditioned import draw_jointly
from ppvae.weights import Weights, draw_weights, expected_log_weight, sum_terms
from ppvae.wording import NAMES

logger = logging.getLogger("ppvae")

Value = TypeVar("Value")


class Pair(nn.Module):
    """A generative model and its guide, as Pyro functions; all that is learned is an `nn.Parameter`.

    A subclass writes two methods. Both open one plate at dim -1 over the batch, of any name, and every sample site
    lies in it; the guide names the model's latent sites. Nothing else is asked. Discrete sites that only the model
    has are summed out exactly.

    A batch is a tensor (`model(x)`), a tuple (`model(*batch)`) or a dict (`model(**batch)`) of tensors sharing
    dimension 0. Particles enter in an outer plate at dim -2, so latents reach the networks as `[K, B, D]`; a pair whose
    networks do not take leading dimensions is run on the batch repeated to K*B rows instead, as `check` finds out.

    Attributes:
        example: data whose first row `sample` takes; set by `check`, or by the subclass.
        checked_kinds: the kinds of batches that have passed the check since the pair's weights last changed.
        particles: "leading" or "rows": how many particles are run. `check` sets the latter where the former fails or
            gives other numbers.
        guide_leads: whether the guide runs with particles leading, and so sees the data once, where the model runs by
            rows; found by `check`.
        own_rows: the rows that the guide has parameters for, if it takes no others, as an AutoNormal; see
            `ppvae.own_rows`.
        evidence_undefined: why this pair has no evidence, if it has none; empty otherwise.
        amortization_undefined: why its guide cannot be said to amortize, if so. That of a guide without learned
            parameters is found out by `ppvae.gap`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Noisy(Pair):
        ...     def model(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        ...     def guide(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> Noisy().log_weights(torch.zeros(3), num_particles=2).log_w   # log N(0; 0, 2), whatever z: the exact guide
        tensor([[-1.2655, -1.2655, -1.2655],
                [-1.2655, -1.2655, -1.2655]])
    """

    example: Batch | None = None
    particles: str = LEADING
    guide_leads: bool = False
    own_rows: Batch | None = None
    evidence_undefined: str = ""
    amortization_undefined: str = ""
    recipe: Recipe | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.__dict__["recipe"] = recipe_of(cls, "", args, kwargs)
        return self

    def __init__(self) -> None:
        super().__init__()
        self.checked_kinds = CheckedKinds()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | nn.Parameter):
            refuse_hidden(type(self), name, value)
            self.__dict__.get("checked_kinds", CheckedKinds()).clear()
        super().__setattr__(name, value)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As any module's, which `to`, `double` and the like call; a pair that they change is then checked again."""
        before = [(t.device, t.dtype) for t in held_by(self)]
        super()._apply(*args, **kwargs)
        if before != [(t.device, t.dtype) for t in held_by(self)]:
            self.checked_kinds.clear()
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As any module's; the pair is then checked again, with these weights."""
        self.checked_kinds.clear()
        return super().load_state_dict(*args, **kwargs)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """p(x, z): a Pyro function of the batch, with the data given as `obs`."""
        raise NotImplementedError(f"{type(self).__name__} has no `model`; write it as a method: def model(self, x)")

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """q(z | x): a Pyro function of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no `guide`; write it as a method: def guide(self, x)")

    def penalty(self) -> Tensor | float:
        """What training takes off the surrogate at each step, such as a multiple of weights' norms; no bound has it."""
        return 0.0

    def time_steps(self, *args: Any, **kwargs: Any) -> Steps:
        """The pair's factors step by step, where it is a sequence in time: what a particle filter runs."""
        raise NotImplementedError(
            f"{type(self).__name__} has no `time_steps`; a particle filter needs the factors of a sequence one after "
            "another (ppvae.steps.Steps): write this method, or use method='auto'"
        )

    @staticmethod
    @checked
    def of(model: Callable, guide: Callable, example: Any, condition: Mapping[str, Any] | str | None = None) -> "Pair":
        """A pair from existing Pyro functions, unchanged; see `ppvae.existing.ExistingFunctions`."""
        return ExistingPair(model, guide, example, condition)

    @exclusive
    def check(self, batch: Any) -> None:
        """Runs the pair on a few rows, refuses, by name, whatever breaks the contract, and keeps a row as `example`.

        Args:
            batch: the data, or some of it.

        Raises:
            ppvae.ContractError: with the site, what was found, what was expected and the usual remedies.
        """
        few = to_pair(data_for(self, rows_or_all(self, batch, slice(contract.MAX_ROWS))), self)
        self.checked_kinds.clear_if_changed(self)
        self._settle(few, in_vain=False)
        self.example = map_batch(lambda t: t[:1].clone(), few)

    @exclusive
    def check_once(self, batch: Batch) -> None:
        """`check`, unless a batch of this kind has passed since the pair's weights last changed; keeps nothing.

        Draws of the guide to which the model gives no density have weight zero here, and are no breach. Of a guide that
        has parameters for its own rows, these are recognized.
        """
        refuse_other_rows(self, batch)
        self.checked_kinds.clear_if_changed(self)
        if not self.checked_kinds.cover(batch):
            self._settle(to_pair(batch, self), in_vain=True)

    @torch.inference_mode(False)
    def _settle(self, batch: Batch, in_vain: bool) -> None:
        with mode(self, training=False), torch.random.fork_rng(gpus(self)), pyro.validation_enabled(True):
            try:
                found = contract.check(self, batch, in_vain)
            except ContractError as error:
                refuse_unlike_example(
                    batch, self.example, error, lambda num: contract.check(self, self.examples(num), in_vain)
                )
                raise
        self.checked_kinds.add(self, batch)
        before, self.particles, self.guide_leads = self.particles, found.particles, found.guide_leads
        if found.particles != before:
            warnings.warn(
                f"{type(self).__name__} is run by rows from now on (pair.particles = 'rows'), which is slower with "
                f"many particles: {found.reason}",
                stacklevel=2,
            )

    @checked
    @exclusive
    def log_weights(self, batch: Any, num_particles: Count = 1) -> Weights:
        """`log w = log p(x, z_k) - log q(z_k | x)` with `z_k ~ q(z | x)`, per particle and data point.

        Reparameterized sites carry gradients. Subsampling scales never enter, data points are never summed. A discrete
        site that the guide has too is drawn; one that only the model has is summed out exactly.

        Args:
            batch: B data points.
            num_particles: K.

        Raises:
            ppvae.ContractError: the pair breaks the contract, as `check_once` finds out.

        Returns:
            Weights with tensors `[K, B]`, in nats.
        """
        return draw_weights(self, accepted(self, batch, "Pair.log_weights"), num_particles)

    @checked
    @exclusive
    def latents(self, batch: Any, num_particles: Count = 1) -> dict[str, Tensor]:
        """Draws from the guide: for each of its sites `[K, B, *event]`, a few rows at a time, where the batch is.

        NaN where a latent is masked, and so not there; of a discrete one, whole numbers are floating then.
        """
        batch = self.checked(batch)
        return over_rows(self, batch, num_particles, lambda few: present_latents(self, few, num_particles), dim=1)

    @checked
    @exclusive
    def encode(self, batch: Any, num_samples: Count = 100) -> Encoding | dict[str, Encoding]:
        """Mean and standard deviation of q(z | x) for each data point; a dict of such where there are several latents.

        Those of latents that depend on other latents, or have a flow for a posterior, are estimated from draws; all
        others are the guide's own, whatever is drawn. Results are where the batch is, and have no gradients.

        Args:
            batch: B data points, however many: they are run a few at a time.
            num_samples: S, draws per data point where draws are needed; the means are off by about std / sqrt(S) then.

        Returns:
            `Encoding` with `mean` and `std`, `[B, *event]`.

        Example:
            >>> from ppvae.models import LinearVAE
            >>> LinearVAE(num_features=5, num_latents=2).encode(torch.randn(10, 5)).mean.shape
            torch.Size([10, 2])
        """
        batch = self.checked(batch)
        found = over_rows(self, batch, num_samples, lambda few: moments(self, few, num_samples), dim=1)
        return _only({name: Encoding(*both) for name, both in found.items()})

    @checked
    def sample(self, at: NumberOrBatch) -> Tensor | dict[str, Tensor]:
        """Data drawn from the model: `[N, *event]`, or a dict of such where several sites are observed.

        What `pyro.factor` adds to the density has no draws, and is left out.

        Args:
            at: how many, N; what the model only reads (lengths, labels, covariates) is then that of `example`. Or a
                batch of N rows, whose covariates are taken, and whose data may be anything, such as zeros.

        Raises:
            ppvae.ContractError: a site depends on data before the statement that observes them (it is named).
        """
        return _only(self.sample_joint(at, observed=True))

    @checked
    @exclusive
    def sample_joint(self, at: NumberOrBatch, observed: bool | None = None) -> dict[str, Tensor]:
        """Draws of the model's sites by name, `[N, *event]`: only the observed, or the latent ones, or all.

        All are those two, and what `pyro.deterministic` names.

        Raises:
            ppvae.ContractError: a site depends on data before the statement that observes them (it is named).
        """
        batch = self.examples(int(at)) if isinstance(at, Integral) else data_for(self, named_batch("at", at))
        read: set[str] = set()
        stale: set[str] = set()

        def draws(few: Batch) -> dict[str, Tensor]:
            refuse_early_reads(self, few, latents_alone=observed is False)
            drawn = draw_jointly(self, few)
            read.update(drawn.only_read())
            stale.update(drawn.stale())
            return drawn.values(observed)

        drawn = over_rows(self, batch, 1, draws)
        if isinstance(at, Integral) and read:
            logger.warning(
                "sample: all %d share %s of pair.example; give a batch for others", at, ", ".join(sorted(read))
            )
        for problem in stale:
            logger.warning("sample: %s", problem)
        return drawn

    @checked
    def examples(self, num: Count, batch: Batch | None = None) -> Batch:
        """A batch of `num` rows, all the first of `example`, where the pair's parameters are and of their precision.

        Args:
            num: how many.
            batch: whose first row is taken where the pair has no `example`.
        """
        example = self.example if self.example is not None or batch is None else batch
        if example is None:
            raise contract.ContractError(
                f"{type(self).__name__}.example: found None, expected one row of data to know the shapes by; "
                "call pair.check(data) first"
            )
        one = rows(named_batch(f"{type(self).__name__}.example", example), slice(1))
        return map_batch(lambda t: t.expand(num, *t.shape[1:]), to_pair(one, self))

    @checked
    @exclusive
    def reconstruct(self, batch: Any, num_particles: Count = 1) -> Tensor | dict[str, Tensor]:
        """`E[x' | z]` averaged over `z ~ q(z | x)`: the mean of the likelihood, `[B, *event]`.

        Discrete sites that only the model has are averaged over their posterior given x and the other latents. Of a
        categorical or ordinal likelihood, the classes' probabilities, `[B, *event, classes]`; of an autoregressive one,
        or of vectors of length one, draws of x, one for each z. One without a mean is left out, with a warning.

        Raises:
            NotImplementedError: no likelihood has a mean (the site is named).
        """
        batch = self.checked(batch)
        found = over_rows(
            self, batch, num_particles, lambda few: reconstructions(tracing.trace_pair(self, few, num_particles))
        )
        return _only(found)

    @exclusive
    def checked(self, data: Any) -> Batch:
        """Data as a batch, still where they are; the pair is checked on a few rows of them, once for their kind."""
        batch = data_for(self, data)
        self.check_once(to_pair(rows_or_all(self, batch, slice(contract.MAX_ROWS)), self))
        return batch

    @of_accepted
    def log_prob(self, batch: Any) -> Tensor:
        """Exact `log p(x)`, `[B]`, in nats: here by summing all latents out, where all are discrete or there are none.

        Raises:
            NotImplementedError: the pair has a continuous latent and no closed form of its own.
        """
        joint = tracing.trace_model(self, batch)
        for name, site in sample_sites(joint.model, observed=False).items():
            if not is_enumerated(site):
                raise NotImplementedError(
                    f"{type(self).__name__}.log_prob: latent site '{name}' cannot be summed out exactly; "
                    "use ppvae.log_evidence(pair, data, method='iwae')"
                )
        return sum_terms(joint.log_p_terms())[0]

    @of_accepted
    def exact_elbo(self, batch: Any) -> Tensor:
        """Exact ELBO, `[B]`, in nats: here by summing the guide's sites, where all are discrete or there are none.

        Raises:
            NotImplementedError: the guide has a continuous site and the pair no closed form of its own.
        """
        joint = tracing.trace_pair(self, batch, 1, enumerate_guide=True)
        for name, site in sample_sites(joint.guide).items():
            if not is_enumerated(site):
                raise NotImplementedError(
                    f"{type(self).__name__}.exact_elbo: guide site '{name}' cannot be summed exactly; "
                    "use ppvae.elbo(pair, data)"
                )
        return expected_log_weight(joint)[0]

    def best_elbo(self, batch: Any) -> Tensor:
        """The ELBO of each data point's best guide of the family, `[B]`, in nats, by a pair that can search for it.

        Raises:
            NotImplementedError: it cannot; the ledger ascends.
        """
        raise NotImplementedError(f"{type(self).__name__}.best_elbo: found no search, expected one; use ppvae.gap")

    def proposal(self) -> "Pair":
        """The pair from whose guide importance weights for log p(x) are drawn: this one, unless it says otherwise.

        A pair whose guide leaves out latents that the posterior has offers another, with the same model.
        """
        return self


NAMES[Pair] = "a Pair, as Pair.of(model, guide, example=x[:10]) makes of Pyro's functions"


class ExistingPair(ExistingFunctions, Pair):
    """A pair whose model and guide are functions written elsewhere, as `Pair.of` makes it."""

    @undisturbed
    def __init__(
        self, model: Callable, guide: Callable, example: Any, condition: Mapping[str, Any] | str | None = None
    ):
        batch = example_for(model, guide, example)
        super().__init__(model, guide, batch, condition)
        with mode(self, training=False), torch.random.fork_rng(gpus(self)):
            if has_own_rows(self.guide, batch):
                self.own_rows = map_batch(torch.clone, batch)
        self.check(batch)


def _only(values: dict[str, Value]) -> Value | dict[str, Value]:
    return next(iter(values.values())) if len(values) == 1 else values
