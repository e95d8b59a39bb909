# The public names, and where each lives; they are imported when they are first used.
from .adversarial.gan import GAN as GAN
from .adversarial.latent_critic import LatentCritic as LatentCritic
from .adversarial.noisy_generator import NoisyGenerator as NoisyGenerator
from .adversarial.spectral_linear import SpectralLinear as SpectralLinear
from .adversarial.vae_gan import VAEGAN as VAEGAN
from .autoencoder import Autoencoder as Autoencoder, DenoisingAutoencoder as DenoisingAutoencoder
from .autoregressive.autoregressive import Autoregressive as Autoregressive
from .autoregressive.autoregressive_flow_prior import AutoregressiveFlowPrior as AutoregressiveFlowPrior
from .autoregressive.autoregressive_likelihood import AutoregressiveLikelihood as AutoregressiveLikelihood
from .autoregressive.autoregressive_pair import AutoregressivePair as AutoregressivePair
from .autoregressive.autoregressive_prior import AutoregressivePrior as AutoregressivePrior
from .autoregressive.gated_pixelcnn import GatedPixelCNN as GatedPixelCNN
from .autoregressive.linear_codes import LinearCodes as LinearCodes
from .autoregressive.made import MADE as MADE
from .autoregressive.masked_network import MaskedNetwork as MaskedNetwork
from .autoregressive.pixelcnn import PixelCNN as PixelCNN
from .autoregressive.pixelrnn import DiagonalBiLSTM as DiagonalBiLSTM, RowLSTM as RowLSTM
from .autoregressive.pixelsnail import PixelSNAIL as PixelSNAIL
from .codes.boltzmann import IndependentBits as IndependentBits, RestrictedBoltzmann as RestrictedBoltzmann
from .codes.code_level import CodeLevel as CodeLevel
from .codes.code_priors import FactorizedCodes as FactorizedCodes, UniformCodes as UniformCodes
from .codes.codebook import Codebook as Codebook
from .codes.smoothed_bits import SmoothedBits as SmoothedBits, SmoothedBoltzmann as SmoothedBoltzmann
from .codes.spiked_bits import SpikedBits as SpikedBits, SpikedBoltzmann as SpikedBoltzmann
from .codes.vqvae import VQVAE as VQVAE
from .codes.vqvae2 import VQVAE2 as VQVAE2
from .diffusion.denoisers import MLPDenoiser as MLPDenoiser, UNet as UNet
from .diffusion.diffusion_vae import DiffusionVAE as DiffusionVAE
from .diffusion.noise_schedules import (
    CosineSchedule as CosineSchedule,
    LearnedSchedule as LearnedSchedule,
    LinearSchedule as LinearSchedule,
)
from .diffusion.sampling import sample_ddim as sample_ddim
from .exact.gaussian_mixture import GaussianMixture as GaussianMixture
from .exact.linear_gaussian_chain import LinearGaussianChain as LinearGaussianChain
from .exact.linear_vae import LinearVAE as LinearVAE
from .flows.continuous_flow import ContinuousFlow as ContinuousFlow
from .flows.coupling_flows import NICE as NICE, RealNVP as RealNVP
from .flows.dequantized import Dequantized as Dequantized
from .flows.flow import Flow as Flow
from .flows.glow import Glow as Glow
from .flows.residual_flow import ResidualFlow as ResidualFlow
from .flows.transforms import Bijection as Bijection
from .hierarchies.convolutional_draw import ConvolutionalDRAW as ConvolutionalDRAW
from .hierarchies.convolutional_hvae import ConvolutionalHVAE as ConvolutionalHVAE
from .hierarchies.draw import DRAW as DRAW
from .hierarchies.hierarchical_posteriors import (
    BottomUpPosterior as BottomUpPosterior,
    ConditionallyIndependent as ConditionallyIndependent,
    IAFPosterior as IAFPosterior,
    LadderPosterior as LadderPosterior,
    ResidualPosterior as ResidualPosterior,
)
from .hierarchies.markov_hvae import MarkovHVAE as MarkovHVAE
from .hierarchies.spectral import SpectralNorms as SpectralNorms
from .labels.conditional_vae import ConditionalVAE as ConditionalVAE
from .labels.label_distributions import Classifier as Classifier, LabelPrior as LabelPrior
from .labels.m1 import M1 as M1
from .labels.m1_m2 import M1M2 as M1M2
from .labels.m2 import M2 as M2
from .multimodal.class_labels import ClassLabel as ClassLabel
from .multimodal.fusions import (
    JointPosterior as JointPosterior,
    MixtureOfProducts as MixtureOfProducts,
    ProductOfExperts as ProductOfExperts,
)
from .multimodal.linear_modalities import LinearModalities as LinearModalities
from .multimodal.missing import batch_with_missing as batch_with_missing
from .multimodal.multimodal_vae import MultimodalVAE as MultimodalVAE
from .multimodal.sensor_fusion import SensorFusion as SensorFusion
from .parts.censored import RightCensored as RightCensored
from .parts.conditionals import (
    DiagonalNormal as DiagonalNormal,
    FullNormal as FullNormal,
    LowRankNormal as LowRankNormal,
    NormalMixture as NormalMixture,
)
from .parts.counts import NegativeBinomial as NegativeBinomial, Poisson as Poisson
from .parts.flow_posteriors import (
    CouplingFlow as CouplingFlow,
    InverseAutoregressiveFlow as InverseAutoregressiveFlow,
    SplineFlow as SplineFlow,
)
from .parts.likelihoods import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Gaussian as Gaussian,
    Likelihood as Likelihood,
    LogisticMixture as LogisticMixture,
)
from .parts.ordinal import Ordinal as Ordinal
from .parts.priors import (
    AR1Prior as AR1Prior,
    FlowPrior as FlowPrior,
    MixturePrior as MixturePrior,
    StandardNormal as StandardNormal,
    VampPrior as VampPrior,
)
from .parts.residual_normal import ResidualNormal as ResidualNormal
from .sequences.deep_markov import DeepMarkov as DeepMarkov, GatedTransition as GatedTransition
from .sequences.generated_polyphony import polyphony as polyphony
from .sequences.hidden_markov import HiddenMarkov as HiddenMarkov
from .sequences.linear_gaussian_state_space import LinearGaussianStateSpace as LinearGaussianStateSpace
from .sequences.mixture_density_rnn import MixtureDensityRNN as MixtureDensityRNN
from .sequences.recurrent_posteriors import Combiner as Combiner, CombinerFlow as CombinerFlow, MeanField as MeanField
from .sequences.recurrent_state_space import RecurrentStateSpace as RecurrentStateSpace
from .sequences.state_space import StateSpace as StateSpace
from .sequences.windows import Windows as Windows
from .tables.frames import read_table as read_table, table_columns as table_columns, write_table as write_table
from .tables.mixed_columns import MixedColumns as MixedColumns
from .tables.table_vae import Imputation as Imputation, TableVAE as TableVAE
from .vae import VAE as VAE
