"""Every objective by name, with what the docs' table and the conformance suite say about it."""

from dataclasses import dataclass

from ppvae.inference.objectives.adversarial import AdversarialLoss
from ppvae.inference.objectives.debiased import JVI, SUMO
from ppvae.inference.objectives.disentangling import DIPVAE, BetaTCVAE
from ppvae.inference.objectives.enumerated import EnumeratedELBO
from ppvae.inference.objectives.evidence_lower_bound import ELBO
from ppvae.inference.objectives.factor_vae import FactorVAE
from ppvae.inference.objectives.feature_elbo import FeatureELBO
from ppvae.inference.objectives.gumbel import GumbelSoftmaxELBO
from ppvae.inference.objectives.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, VIMCO
from ppvae.inference.objectives.protocol import Objective
from ppvae.inference.objectives.renyi import CUBO, Renyi, VRMax
from ppvae.inference.objectives.reweighted import RWS
from ppvae.inference.objectives.semi_supervised import SemiSupervisedELBO
from ppvae.inference.objectives.single_term import SingleTermELBO
from ppvae.inference.objectives.spiked import SpikedELBO
from ppvae.inference.objectives.thermodynamic import TVO
from ppvae.inference.objectives.vector_quantized import VectorQuantizedELBO


@dataclass(frozen=True)
class Entry:
    """An objective's class, and its value, gradients and source in words, as Markdown."""

    objective: type[Objective]
    value: str
    gradients: str
    source: str = ""


REGISTRY: dict[str, Entry] = {}


def register(entry: Entry) -> None:
    """Adds an objective under its class's name.

    Raises:
        ValueError: the name is taken.
    """
    name = entry.objective.__name__
    if name in REGISTRY:
        raise ValueError(f"objective: found a second {name}, expected a name that is not taken: not {list(REGISTRY)}")
    REGISTRY[name] = entry


def table() -> str:
    """The registry as the docs print it."""
    lines = ["| objective | value | gradients | source |", "|---|---|---|---|"]
    for name, entry in REGISTRY.items():
        lines.append(f"| `{name}` | {entry.value} | {entry.gradients} | {entry.source} |".replace("  ", " "))
    return "\n".join(lines)


for _entry in (
    Entry(
        ELBO,
        "`E log w`, KL in closed form where valid",
        "reparameterized, stl, score; `beta`, `balance`, `free_bits`",
        "Kingma & Welling 2014; Roeder et al. 2017; Higgins et al. 2017; Vahdat et al. 2018",
    ),
    Entry(EnumeratedELBO, "the ELBO, discrete guide sites summed", "exact over those"),
    Entry(
        SemiSupervisedELBO,
        "the enumerated ELBO, with some [labels](labels.md) missing",
        "exact over those; the guide learns from known labels",
        "Kingma et al. 2014",
    ),
    Entry(
        SingleTermELBO,
        "the ELBO, by one of its terms for each data point",
        "reparameterized; of a [diffusion](diffusion.md), at a T-th of the cost",
        "Ho et al. 2020; Kingma et al. 2021",
    ),
    Entry(
        GumbelSoftmaxELBO,
        "the ELBO, one-hot and Bernoulli sites drawn",
        "straight through, biased",
        "Jang et al. 2017",
    ),
    Entry(
        SpikedELBO,
        "the ELBO, KL in closed form",
        "along the draws of [spiked bits](codes.md#bits-with-a-boltzmann-machine-for-a-prior)",
        "Rolfe 2017",
    ),
    Entry(
        VectorQuantizedELBO,
        "the ELBO, of guides at the nearest [codes](codes.md)",
        "straight through, biased; less the distortion",
        "van den Oord et al. 2017",
    ),
    Entry(
        BetaTCVAE,
        "the ELBO",
        "less `(beta - 1)` [total correlation](disentanglement.md) of the minibatch",
        "Chen et al. 2018",
    ),
    Entry(DIPVAE, "the ELBO", "less a price on the covariance of q(z)", "Kumar et al. 2018"),
    Entry(FactorVAE, "the ELBO", "less `gamma` total correlation, as a critic sees it", "Kim & Mnih 2018"),
    Entry(
        FeatureELBO,
        "the ELBO",
        "reconstructions compared in a critic's features: [VAE/GAN](adversarial.md)",
        "Larsen et al. 2016",
    ),
    Entry(IWAE, "`log mean w`", "reparameterized, stl, dreg, score", "Burda et al. 2016; Tucker et al. 2019"),
    Entry(VIMCO, "that of IWAE", "score, leave-one-out", "Mnih & Rezende 2016"),
    Entry(RWS, "that of IWAE", "wake or sleep phase", "Bornschein & Bengio 2015"),
    Entry(MIWAE, "the mean of M values of IWAE", "as IWAE", "Rainforth et al. 2018"),
    Entry(PIWAE, "that of MIWAE", "the model's from IWAE, the guide's from MIWAE", "Rainforth et al. 2018"),
    Entry(CIWAE, "`beta ELBO + (1 - beta) IWAE`", "as IWAE", "Rainforth et al. 2018"),
    Entry(Renyi, "`log mean w^(1 - alpha) / (1 - alpha)`", "reparameterized, score", "Li & Turner 2016"),
    Entry(VRMax, "`max log w`", "reparameterized, score", "Li & Turner 2016"),
    Entry(CUBO, "`log mean w^n / n`, biased low", "its exponential's, normalized", "Dieng et al. 2017"),
    Entry(TVO, "thermodynamic lower or upper sum", "covariances, z fixed", "Masrani et al. 2019"),
    Entry(
        AdversarialLoss,
        "no bound: minus a distance, as a critic sees it",
        "of generator and critic, each by its own gain",
        "Goodfellow et al. 2014; Gulrajani et al. 2017",
    ),
    Entry(JVI, "log p(x), debiased by the jackknife", "none: evaluation only", "Nowozin 2018"),
    Entry(SUMO, "log p(x), unbiased by a random series", "none: evaluation only", "Luo et al. 2020"),
):
    register(_entry)
