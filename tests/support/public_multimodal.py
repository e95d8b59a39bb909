"""A valid call of each public model and part of several modalities, with the kind of each argument."""

import torch
from support.malformed_values import (
    Call,
    choice,
    count,
    instance,
    mapping,
    module_class,
    optional,
    positive,
    sequence,
    sizes,
    text,
)
from support.public_arguments import MAYBE_SEED, NO, little_effort, ranks, report
from torch import nn

from ppvae.models import (
    Bernoulli,
    ClassLabel,
    DiagonalNormal,
    LinearModalities,
    MultimodalVAE,
    ProductOfExperts,
    SensorFusion,
)


def expert():
    return DiagonalNormal(nn.Linear(3, 4))


def pair():
    torch.manual_seed(0)
    return MultimodalVAE.mlp({"a": 3, "b": 2}, 2, [3], {"a": "gaussian", "b": "gaussian"})


def linear():
    torch.manual_seed(0)
    return LinearModalities({"a": 3, "b": 2}, 2)


def fusion():
    torch.manual_seed(0)
    posterior = ProductOfExperts({"a": expert()})
    return SensorFusion(2, 1, {"a": Bernoulli(nn.Linear(2, 3))}, {"y": Bernoulli(nn.Linear(3, 1))}, posterior)


def batch():
    torch.manual_seed(1)
    return {"a": torch.randn(4, 3), "b": torch.randn(4, 2), "has": torch.tensor([[True, True], [True, False]] * 2)}


COUNT, NETWORK = count(2), instance(lambda: nn.Linear(2, 3))
EXPERTS = mapping(instance(expert), "a", "empty dict")
BATCH = instance(batch)
NAMES = sequence(sequence(text("a"), 1), 1)

LEDGERS = {
    "gap_by_pattern": Call(
        {
            "pair": instance(linear),
            "data": BATCH,
            "effort": instance(little_effort),
            "patterns": optional(sequence(sequence(text("a"), 0), 1).besides("[empty list]")),
            "train": BATCH.besides("None"),
            "num_simulations": optional(count(20)),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "PatternReport": Call(
        {
            "pair": text(),
            "reports": mapping(instance(report), "a", "empty dict"),
            "calibrations": mapping(instance(ranks), "a", "empty dict"),
        }
    ),
}
MULTIMODAL = {
    "ClassLabel": Call({"network": NETWORK}),
    "ClassLabel.init_from": Call(
        {"x": instance(lambda: torch.tensor([0, 2, 1]), "tensor")}, owner=lambda: ClassLabel(nn.Linear(2, 3))
    ),
    "ProductOfExperts": Call({"experts": EXPERTS}),
    "MixtureOfProducts": Call({"experts": EXPERTS, "subsets": NAMES}),
    "JointPosterior": Call({"networks": mapping(NETWORK, "a", "empty dict"), "head": NETWORK}),
    "LinearModalities": Call({"sizes": mapping(count(3), "a"), "num_latents": COUNT, "guide": choice("exact")}),
    "LinearModalities.exact_gap": Call({"batch": BATCH}, owner=linear),
    "LinearModalities.true_posterior": Call({"batch": BATCH}, owner=linear),
    "LinearModalities.factorized_gap": Call({"has": instance(lambda: torch.tensor([[True, False]]))}, owner=linear),
    "MultimodalVAE": Call(
        {
            "num_latents": COUNT,
            "likelihoods": mapping(instance(lambda: Bernoulli(nn.Linear(2, 3))), "a"),
            "posterior": instance(lambda: ProductOfExperts({"a": expert()})),
            "private": optional(mapping(sequence(count(2), 2), "a", "empty dict")),
            "weights": optional(mapping(positive(2.0), "a", "empty dict")),
        },
        fixed={"private": dict},
    ),
    "MultimodalVAE.mlp": Call(
        {
            "sizes": mapping(count(3), "a"),
            "num_latents": COUNT,
            "hidden": sizes(3, 3).besides("empty list"),
            "likelihoods": optional(mapping(choice("bernoulli"), "a", "empty dict")),
            "posterior": choice("product"),
            "private": optional(mapping(COUNT, "a", "empty dict")),
            "weights": optional(mapping(positive(2.0), "a", "empty dict")),
            "activation": module_class(),
            "levels": optional(mapping(count(5), "a", "empty dict")),
        }
    ),
    "MultimodalVAE.generate": Call({"batch": BATCH, "num_samples": COUNT, "private": choice("prior")}, owner=pair),
    "MultimodalVAE.hide_at_random": Call({"batch": BATCH}, owner=pair),
    "MultimodalVAE.init_from": Call({"batch": BATCH}, owner=pair),
    "MultimodalVAE.split": Call({"batch": BATCH}, owner=pair),
    "SensorFusion": Call(
        {
            "num_latents": COUNT,
            "num_actions": count(1),
            "sensors": mapping(instance(lambda: Bernoulli(nn.Linear(2, 3))), "a"),
            "targets": mapping(instance(lambda: Bernoulli(nn.Linear(3, 1))), "y"),
            "posterior": instance(lambda: ProductOfExperts({"a": expert()})),
        }
    ),
    "SensorFusion.hide_at_random": Call({"batch": instance(lambda: fusion().sample(4))}, owner=fusion),
    "batch_with_missing": Call(
        {"modalities": mapping(instance(lambda: torch.zeros(3, 2), "tensor"), "a").besides("{array}", "{list}")}
    ),
}
