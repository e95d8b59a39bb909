"""A valid call of each public model of labels, with the kind of each argument."""

import torch
from support.malformed_values import Call, count, data, instance
from support.public_arguments import images
from support.public_models import (
    ACTIVATION,
    BATCH,
    COUNT,
    EVEN,
    HIDDEN,
    LEVELS,
    LIKELIHOOD,
    NETWORK,
    POSTERIOR,
    layer,
)

from ppvae.models import M1, M1M2, M2, VAE, Classifier, ConditionalVAE, LabelPrior, StandardNormal
from ppvae.models.parts.likelihoods import Bernoulli


def conditional():
    torch.manual_seed(0)
    return ConditionalVAE.mlp(4, 2, 3, [3])


def m1():
    torch.manual_seed(0)
    return M1.mlp(4, 2, 3, [3])


def m2(num_features=4, likelihood="bernoulli"):
    torch.manual_seed(0)
    return M2.mlp(num_features, 2, 3, [3], likelihood)


def m1_m2():
    return M1M2(VAE.mlp(4, 2, [3]), m2(2, "gaussian"))


MLP = {
    "num_features": EVEN,
    "num_latents": COUNT,
    "hidden": HIDDEN,
    "likelihood": LIKELIHOOD,
    "posterior": POSTERIOR,
    "levels": LEVELS,
}
SAMPLES = {"num_samples": COUNT}
IMAGES = {"x": data(images, "one dimension more")}

LABELS = {
    "Classifier": Call({"network": NETWORK}),
    "LabelPrior": Call({"num_classes": COUNT}),
    "ConditionalVAE": Call(
        {
            "prior": instance(lambda: StandardNormal(2)),
            "likelihood": instance(lambda: Bernoulli(layer(5))),
            "posterior": instance(lambda: layer(7)),
            "num_covariates": count(3),
        }
    ),
    "ConditionalVAE.mlp": Call(MLP | {"num_covariates": COUNT}),
    "ConditionalVAE.init_from": Call(IMAGES, owner=conditional),
    "M1": Call({"vae": instance(lambda: VAE.mlp(4, 2, [3])), "classifier": instance(lambda: Classifier(layer()))}),
    "M1.mlp": Call(MLP | {"num_classes": COUNT, "activation": ACTIVATION}),
    "M1.classify": Call({"x": BATCH.besides("one dimension more")} | SAMPLES, owner=m1),
    "M2": Call(
        {
            "label_prior": instance(lambda: LabelPrior(3)),
            "prior": instance(lambda: StandardNormal(2)),
            "likelihood": instance(lambda: Bernoulli(layer(5))),
            "classifier": instance(lambda: Classifier(layer())),
            "posterior": instance(lambda: layer(7)),
        }
    ),
    "M2.mlp": Call(MLP | {"num_classes": COUNT, "activation": ACTIVATION}),
    "M2.classify": Call({"x": BATCH.besides("one dimension more")}, owner=m2),
    "M2.init_from": Call(IMAGES, owner=m2),
    "M1M2": Call({"vae": instance(lambda: VAE.mlp(4, 2, [3])), "m2": instance(lambda: m2(2, "gaussian"))}),
    "M1M2.classify": Call({"x": BATCH.besides("one dimension more")} | SAMPLES, owner=m1_m2),
}
