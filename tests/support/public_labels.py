"""A valid call of each public model of labels and of tables, with the kind of each argument."""

import pandas as pd
import torch
from support.malformed_values import DATA_NAMES, Call, count, data, fraction, instance, mapping, tensor, text
from support.public_arguments import ANY_TENSOR, images
from support.public_models import (
    ACTIVATION,
    COUNT,
    EVEN,
    HIDDEN,
    LEVELS,
    LIKELIHOOD,
    NETWORK,
    POSTERIOR,
    layer,
)

from ppvae.models import (
    M1,
    M1M2,
    M2,
    VAE,
    Classifier,
    ConditionalVAE,
    DiagonalNormal,
    LabelPrior,
    MixedColumns,
    StandardNormal,
    TableVAE,
)
from ppvae.models.parts.likelihoods import Bernoulli


def bits():
    return torch.eye(4)[[0, 1, 2, 3, 0, 1]]


BITS = data(bits).besides("one dimension more")


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


def table_vae():
    torch.manual_seed(0)
    return TableVAE.mlp({"a": "real", "b": "real"}, 2, [3])


def table():
    return {"a": [1.0, None], "b": [0.0, 2.0]}


def rows():
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(6, 2, dtype=torch.bool)


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

COLUMNS = mapping(text("real"), "a", "empty dict")

LABELS = {
    "MixedColumns": Call({"network": NETWORK, "columns": COLUMNS}),
    "MixedColumns.init_from": Call({"x": tensor(lambda: torch.zeros(3, 2))}, owner=lambda: table_vae().likelihood),
    "TableVAE.init_from": Call({"x": tensor(lambda: torch.zeros(3, 2))}, owner=table_vae),
    "TableVAE": Call(
        {
            "prior": instance(lambda: StandardNormal(2)),
            "likelihood": instance(lambda: MixedColumns(layer(2, 2), {"a": "real", "b": "real"})),
            "posterior": instance(lambda: DiagonalNormal(layer(4, 4))),
        }
    ),
    "TableVAE.mlp": Call({"columns": COLUMNS, "num_latents": COUNT, "hidden": HIDDEN, "posterior": POSTERIOR}),
    "TableVAE.impute": Call(
        {"batch": instance(rows, names=DATA_NAMES), "num_samples": COUNT, "level": fraction(0.9)}, owner=table_vae
    ),
    "Imputation": Call({name: ANY_TENSOR for name in ("median", "lower", "upper")}),
    "table_columns": Call({"frame": instance(lambda: pd.DataFrame(table()))}),
    "read_table": Call({"table": instance(table), "columns": COLUMNS}),
    "write_table": Call({"x": tensor(lambda: torch.zeros(3, 1)), "columns": COLUMNS}),
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
    "M1.classify": Call({"x": BITS} | SAMPLES, owner=m1),
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
    "M2.classify": Call({"x": BITS}, owner=m2),
    "M2.init_from": Call(IMAGES, owner=m2),
    "M1M2": Call({"vae": instance(lambda: VAE.mlp(4, 2, [3])), "m2": instance(lambda: m2(2, "gaussian"))}),
    "M1M2.classify": Call({"x": BITS} | SAMPLES, owner=m1_m2),
}
