"""A valid call of each public function and record, with the kind of each argument."""

import numpy as np
import torch
from support.malformed_values import (
    Call,
    always,
    choice,
    count,
    data,
    flag,
    fraction,
    from_zero,
    function,
    instance,
    mapping,
    non_negative,
    optional,
    path,
    positive,
    real,
    sequence,
    text,
)
from support.public_arguments import (
    AIS,
    ANY_BATCH,
    ANY_TENSOR,
    COUNT,
    DATA,
    EVIDENCE,
    FILE,
    GRADIENT,
    MAYBE_SEED,
    MEASUREMENT,
    MIXTURE,
    NO,
    PAIR,
    PLANE,
    SEED,
    STEP,
    checked_linear,
    evidence,
    folder,
    guide,
    linear,
    little_effort,
    model,
    plane,
    points,
    report,
    saved_pair,
    saved_report,
    saved_trainer,
    trainer,
    usage,
)

import ppvae
from ppvae.inference.ledger.ascent import Ascent
from ppvae.inference.ledger.likelihood_scale import LikelihoodScale

LABEL = count(1).besides(*("empty string", "string", "digits", "nan", "inf", "-inf", "half", "-1", "huge", "0", "True"))

FIT = {
    "data": data(points, "generator"),
    "objective": function(ppvae.ELBO(), "None"),
    "batch_size": count(3),
    "drop_last": NO,
    "weights": data(lambda: torch.ones(6), "None"),
    "optimizer": choice("adam"),
    "lr": non_negative(1e-3),
    "schedule": function(lambda done: 1.0, "None"),
    "seed": SEED,
    "device": optional(choice("cpu")).besides("capitals"),
    "transform": function(lambda x: x, "None"),
    "held_out": data(points, "None"),
    "callbacks": sequence(function(lambda fit: None), 1, "empty list"),
    "progress": NO,
    "compile": flag(False),
    "checkpoint": path(lambda: folder() / "run.safetensors").besides("None"),
    "resume": NO,
    "options": optional(STEP),
}

CALLS = {
    "AIS": Call(
        {
            "num_chains": COUNT,
            "num_temperatures": COUNT,
            "start": choice("prior"),
            "schedule": choice("adaptive"),
            "num_leapfrog": COUNT,
            "checkpoint": path(lambda: folder() / "ais").besides("None", "folder"),
        }
    ),
    "CIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "beta": fraction(0.5)}),
    "CSVLogger": Call({"path": FILE}),
    "CUBO": Call({"num_particles": COUNT, "gradient": choice("score"), "n": positive(2.0)}),
    "Checkpoint": Call({"path": FILE.besides("folder"), "every": optional(COUNT)}),
    "ELBO": Call(
        {
            "num_particles": COUNT,
            "kl": choice("auto"),
            "beta": non_negative(1.0),
            "free_bits": non_negative(0.0),
            "balance": NO,
            "gradient": choice("reparameterized"),
        }
    ),
    "Effort": Call(
        {
            "evidence": choice("best"),
            "num_particles": COUNT,
            "annealing": sequence(AIS, 2, "empty list"),
            "num_samples": COUNT,
            "ascent": optional(instance(Ascent)),
            "restarts": from_zero(1),
            "richer": flag(True),
            "refit_steps": from_zero(10),
        }
    ),
    "ElboTerms": Call(
        {
            "pair": text(),
            "elbo": MEASUREMENT,
            "expected_log_likelihood": MEASUREMENT,
            "latents": mapping(instance(usage), "z", "empty dict"),
        }
    ),
    "Encoding": Call({"mean": ANY_TENSOR, "std": ANY_TENSOR}),
    "EnumeratedELBO": Call({"num_particles": COUNT}),
    "Evidence.of": Call(
        {
            "method": text("iwae"),
            "num_particles": from_zero(2),
            "found": mapping(ANY_TENSOR, "estimate"),
            "reliable": instance(lambda: torch.ones(6, dtype=torch.bool), "tensor"),
            "limits": sequence(text(), 1, "empty list"),
        },
        fixed={"found": lambda: {"estimate": torch.zeros(6), "std_error": torch.zeros(6)}},
    ),
    "Evidence.rows": Call({"at": instance(lambda: torch.ones(6, dtype=torch.bool))}, owner=evidence),
    "Evidence.with_rows": Call(
        {"at": instance(lambda: torch.ones(6, dtype=torch.bool)), "other": EVIDENCE}, owner=evidence
    ),
    "Evidence": Call(
        {
            **{name: ANY_TENSOR for name in ("estimate", "std_error", "ess", "khat", "acceptance", "divergences")},
            "reliable": instance(lambda: torch.ones(6, dtype=torch.bool), "tensor"),
            "num_particles": from_zero(2),
            "method": text("iwae"),
            "methods": sequence(text(), 6, "empty list"),
        }
    ),
    "Fit": Call(
        {
            "pair": PAIR,
            "objective": function(ppvae.ELBO()),
            "history": mapping(instance(lambda: np.zeros(2), "array", "tensor"), "bound", "empty dict"),
            "epochs": from_zero(1),
            "steps": from_zero(1),
            "seconds": non_negative(0.1),
            "stopped": text(),
            "warning": text(),
        }
    ),
    "GapReport": Call(
        {
            "pair": text(),
            "log_evidence": EVIDENCE,
            "elbo": MEASUREMENT,
            "measured": mapping(MEASUREMENT, "elbo_refined", "empty dict"),
            "latents": mapping(instance(usage), "z", "empty dict"),
            "likelihood": mapping(instance(lambda: LikelihoodScale(1.0, 0.0, 0.0, 0.0)), "x", "empty dict"),
            "amortization_undefined": text(),
            "local_parameters": NO,
            "structure": text(),
            "out_of_reach": NO,
            "train": optional(instance(report)),
            "notes": mapping(text(), "gap", "empty dict"),
            "settings": mapping(text(), "seed", "empty dict"),
        }
    ),
    "GapReport.load": Call({"path": path(saved_report)}),
    "GapReport.save": Call({"path": path(lambda: folder() / "new.nc")}, owner=report),
    "GumbelSoftmaxELBO": Call({"num_particles": COUNT, "temperature": positive(0.5)}),
    "HeldOut": Call({"data": ANY_BATCH, "patience": optional(COUNT), "keep_best": NO}),
    "IWAE": Call({"num_particles": COUNT, "gradient": GRADIENT}),
    "JVI": Call({"num_particles": COUNT, "order": from_zero(1)}),
    "LinearWarmup": Call({"steps": COUNT, "delay": from_zero(1)}),
    "MIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "num_groups": COUNT}),
    "Measurement": Call(
        {
            "estimate": ANY_TENSOR,
            "std_error": ANY_TENSOR,
            "num_particles": from_zero(1),
            "method": text(),
            "warning": text(),
            "kind": text(),
        }
    ),
    "PIWAE": Call({"num_particles": COUNT, "gradient": GRADIENT, "num_groups": COUNT}),
    "RWS": Call({"num_particles": COUNT, "gradient": choice("score"), "phase": choice("wake")}),
    "Renyi": Call({"num_particles": COUNT, "gradient": choice("score"), "alpha": real(0.5)}),
    "SUMO": Call({"num_particles": COUNT}),
    "SUMO.estimate": Call({"log_w": instance(lambda: torch.zeros(8, 6)), "num_terms": ANY_TENSOR}, owner=ppvae.SUMO),
    "SUMO.num_terms": Call({"u": ANY_TENSOR}, owner=ppvae.SUMO),
    "Sandwich": Call({"lower": MEASUREMENT, "upper": MEASUREMENT, "width": MEASUREMENT}),
    "SingleTermELBO": Call({"num_particles": COUNT, "stratified": flag(True)}),
    "StepOptions": Call(
        {
            "clip_norm": optional(positive(1.0)).besides("inf"),
            "ema": optional(fraction(0.9)),
            "autocast": instance(lambda: torch.bfloat16, "None"),
            "distributed": flag(False),
        }
    ),
    "TVO": Call(
        {
            "num_particles": COUNT,
            "gradient": choice("score"),
            "partition": sequence(fraction(1.0), 2),
            "upper": NO,
        },
        fixed={"partition": always((0.0, 1.0))},
    ),
    "Trainer": Call(
        {
            "pair": PAIR,
            **{name: FIT[name] for name in ("objective", "optimizer", "lr", "schedule", "seed", "device", "options")},
            "compile": NO,
        }
    ),
    "Trainer.check": Call({"batch": DATA}, owner=trainer),
    "Trainer.step": Call({"batch": DATA}, owner=trainer),
    "Trainer.load": Call({"path": path(saved_trainer)}, owner=trainer),
    "Trainer.save": Call({"path": FILE}, owner=trainer),
    "SemiSupervisedELBO": Call({"num_particles": COUNT, "weight": non_negative(1.0)}),
    "SpikedELBO": Call({"num_particles": COUNT}),
    "VIMCO": Call({"num_particles": COUNT, "gradient": choice("score")}),
    "VRMax": Call({"num_particles": COUNT, "gradient": choice("score")}),
    "VectorQuantizedELBO": Call(
        {
            "num_particles": COUNT,
            "kl": choice("auto"),
            "beta": non_negative(1.0),
            "free_bits": non_negative(0.0),
            "balance": NO,
            "gradient": choice("reparameterized"),
            "commitment": non_negative(0.25),
        }
    ),
    "Weights": Call(
        {name: mapping(ANY_TENSOR, "z", "empty dict") for name in ("log_p_sites", "log_q_sites", "latents")}
    ),
    "bound_curve": Call(
        {"pair": PAIR, "data": DATA, "num_particles": sequence(COUNT, 2), "seed": MAYBE_SEED, "progress": NO},
        fixed={"num_particles": always((1, 2))},
    ),
    "compare": Call({"evidences": mapping(EVIDENCE, "a")}),
    "elbo": Call({"pair": PAIR, "data": DATA, "num_samples": COUNT, "seed": MAYBE_SEED, "progress": NO}),
    "elbo_terms": Call({"pair": PAIR, "data": DATA, "num_samples": COUNT, "seed": MAYBE_SEED, "progress": NO}),
    "fit": Call({"pair": PAIR, **FIT, "steps": count(2)}),
    "fit_em": Call(
        {
            "mixture": MIXTURE,
            "data": PLANE,
            "weights": data(lambda: torch.ones(12), "None"),
            "init": choice("k-means++"),
            "restarts": COUNT,
            "max_iterations": COUNT.besides("0"),
            "tolerance": non_negative(1e-6).besides("-1"),
            "covariance_floor": non_negative(1e-6),
            "hard": NO,
            "update": sequence(choice("means"), 1),
            "seed": SEED,
            "progress": NO,
        }
    ),
    "fit_many": Call(
        {"make_pair": function(linear, "None"), **{n: FIT[n] for n in ("data", "lr", "seed")}, "steps": count(2)}
    ),
    "fit_streaming_em": Call(
        {
            "mixture": MIXTURE,
            "batches": data(plane, "generator"),
            "batch_size": count(6),
            "epochs": COUNT,
            "init": choice("k-means++"),
            "step_exponent": fraction(0.6),
            "covariance_floor": non_negative(1e-6),
            "seed": SEED,
            "progress": NO,
        }
    ),
    "gap": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "effort": instance(little_effort),
            "train": data(points, "None"),
            "transform": function(lambda x: x, "None"),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "gradient_statistics": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "objectives": sequence(instance(ppvae.IWAE), 1),
            "num_particles": sequence(COUNT, 1),
            "repeats": count(16),
            "groups": mapping(sequence(text("weight"), 1), "all", "None"),
            "seed": SEED,
            "compile": NO,
            "progress": NO,
        }
    ),
    "load": Call({"pair": instance(linear), "path": path(saved_pair)}),
    "log_evidence": Call(
        {
            "pair": PAIR,
            "data": DATA,
            "method": choice("iwae"),
            "num_particles": COUNT,
            "annealing": optional(AIS).besides("list", "empty list"),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "save": Call({"pair": PAIR, "path": FILE}),
    "set_progress": Call({"shown": flag(True)}),
    "to_arviz": Call(
        {
            "pair": PAIR.besides("list"),
            "data": DATA,
            "posterior": choice("guide"),
            "num_samples": COUNT,
            "annealing": optional(AIS),
            "seed": MAYBE_SEED,
            "dims": optional(mapping(sequence(text("dim"), 1), "z", "empty dict")),
            "coords": optional(mapping(sequence(LABEL, 2), "dim", "empty dict")),
            "progress": NO,
        },
        fixed={"coords": dict, "annealing": always(None)},
    ),
    "calibration": Call(
        {
            "pair": instance(checked_linear),
            "num_simulations": count(20),
            "num_samples": count(9),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "expected_coverage": Call(
        {
            "pair": instance(checked_linear),
            "num_simulations": count(20),
            "num_samples": count(9),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "local_classifier_test": Call(
        {
            "pair": instance(checked_linear),
            "data": DATA,
            "num_simulations": count(20),
            "num_samples": count(4),
            "num_permutations": count(19),
            "seed": MAYBE_SEED,
            "progress": NO,
        }
    ),
    "Pair.of": Call(
        {
            "model": function(model),
            "guide": function(guide),
            "example": data(points),
            "condition": optional(mapping(ANY_TENSOR, "z", "empty dict")),
        },
        fixed={"condition": always(None)},
    ),
    "Pair.check": Call({"batch": DATA}, owner=linear),
    "Pair.check_once": Call({"batch": DATA}, owner=linear),
    "Pair.checked": Call({"data": DATA}, owner=linear),
    "Pair.encode": Call({"batch": DATA, "num_samples": COUNT}, owner=linear),
    "Pair.examples": Call({"num": COUNT}, owner=checked_linear),
    "Pair.latents": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.log_weights": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.reconstruct": Call({"batch": DATA, "num_particles": COUNT}, owner=linear),
    "Pair.sample": Call({"at": count(2)}, owner=checked_linear),
    "Pair.sample_joint": Call({"at": count(2), "observed": optional(flag(True))}, owner=checked_linear),
}
