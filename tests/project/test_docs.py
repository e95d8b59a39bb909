"""The code in the documents runs, as printed, and does what the text says."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from PIL import Image

import ppvae
from ppvae.models.named_likelihoods import LIKELIHOODS
from ppvae.models.parts.posteriors import POSTERIOR_FAMILIES
from ppvae.models.parts.priors import PRIORS

ROOT = Path(__file__).parents[2]


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


HOME = "https://github.com/ppvae/ppvae/blob/main/"
PICTURES = "https://raw.githubusercontent.com/ppvae/ppvae/main/"


def test_the_readmes_links_are_whole_and_lead_to_files():
    """A package index shows the README without the repository."""
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://")] == []
    own = [link.removeprefix(HOME).removeprefix(PICTURES) for link in links if link.startswith((HOME, PICTURES))]
    assert len(own) > 20
    assert [path for path in own if not (ROOT / path).exists()] == []


@pytest.mark.slow(11)
def test_the_pair_of_the_guide_is_a_pair():
    names = {}
    exec(python_blocks("docs/pairs.md")[0], names)
    pair = names["PoissonFactors"](num_features=6, num_latents=2)
    x = torch.poisson(torch.full((50, 6), 3.0))
    before = ppvae.elbo(pair, x, seed=0, progress=False).mean().estimate
    ppvae.fit(pair, x, epochs=50, lr=1e-2, progress=False)
    found = ppvae.gap(pair, x, "quick", seed=0, progress=False)
    assert found.elbo.mean().estimate > before + 1
    assert -0.1 < found.mean().estimate < 2
    assert pair.sample(10).shape == pair.reconstruct(x[:10]).shape == (10, 6)


def test_the_penalty_of_the_guide_holds_weights_down_and_enters_no_bound():
    names, found = {}, []
    for block in python_blocks("docs/pairs.md")[:1] + python_blocks("docs/pairs.md")[-1:]:
        exec(block, names)
    x = torch.poisson(torch.full((50, 6), 3.0))
    for name in ("PoissonFactors", "Regularized"):
        torch.manual_seed(0)
        pair = names[name](num_features=6, num_latents=2)
        run = ppvae.fit(pair, x, epochs=50, lr=1e-2, progress=False)
        found.append((run.history["bound"][0], pair.rates.weight.square().sum().item()))
    (bound, norm), (regularized_bound, regularized_norm) = found
    assert regularized_bound == bound
    assert regularized_norm < 0.97 * norm


def test_the_parts_of_the_guide_make_a_pair():
    names = {"ppvae": ppvae}
    block = next(block for block in python_blocks("docs/pairs.md") if "vae = " in block)
    exec(block.replace("epochs=300", "steps=3, progress=False"), names)
    vae, x = names["vae"], names["digits"].test[:5]
    assert vae.log_weights(x, num_particles=3).log_w.isfinite().all()


def test_the_table_of_parts_is_that_of_the_registries():
    rows = []
    for kind, registry in {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIOR_FAMILIES}.items():
        for part, first in zip(registry.values(), [kind, *[""] * len(registry)], strict=False):
            assert part.module.__name__ in ppvae.models.__all__
            cells = [first, f'"{part.name}"', f"`{part.module.__name__}`", part.summary, part.source]
            rows.append(re.sub(" +", " ", f"| {' | '.join(cells)} |"))
    table = re.search(r"\| part \| name \|.*?\n\n", (ROOT / "docs/pairs.md").read_text(), re.DOTALL)
    assert table[0].strip().splitlines()[2:] == rows


def test_the_bound_of_the_guide_is_a_bound():
    names = {}
    exec(python_blocks("docs/objectives.md")[2], names)
    pair, x = ppvae.models.LinearVAE(num_features=4, num_latents=2), torch.randn(5, 4)
    for gradient in ("reparameterized", "stl", "score"):
        objective = names["MedianOfMeans"](num_particles=9, gradient=gradient)
        value, _ = objective(pair, x)
        assert value.shape == (5,)
        ppvae.fit(pair, x, objective, steps=3, progress=False)
    ds = ppvae.gradient_statistics(pair, x, [objective], [9], repeats=16, progress=False)
    assert (ds["total_variance"] > 0).all()


@pytest.mark.slow(4)
def test_the_hierarchies_of_their_page_train(capsys):
    x = torch.rand(200, 6).round()
    names = {"ppvae": ppvae, "torch": torch, "pyro": pyro, "nn": torch.nn, "num_features": 6, "train": x, "held_out": x}
    first, own = python_blocks("docs/hierarchies.md")
    exec(first, names)
    assert list(names["terms"].latents) == ["z3", "z2", "z1"]
    assert "KL of z3" in capsys.readouterr().out
    exec(own, names)
    pair, before = names["pair"], ppvae.elbo(names["pair"], x, seed=0, progress=False).mean()
    ppvae.fit(pair, x, epochs=20, lr=1e-2, progress=False)
    assert ppvae.elbo(pair, x, seed=0, progress=False).mean().estimate > before.estimate + 4 * before.monte_carlo_error
    assert all(usage.is_kl for usage in ppvae.elbo_terms(pair, x, 10, progress=False).latents.values())


@pytest.mark.slow(90)
def test_the_readmes_example_prints_what_it_says(capsys):
    """To the first digits: training differs between processors in the last."""
    code, printed = (
        python_blocks("README.md")[0],
        re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.S),
    )
    exec(code, {})
    figures = [[float(n) for n in re.findall(r"-?\d+\.\d+", text)] for text in (printed[0], capsys.readouterr().out)]
    assert len(figures[0]) == len(figures[1]) > 5
    for a, b in zip(*figures, strict=True):
        assert a == pytest.approx(b, abs=0.5, rel=0.05)


def test_the_settings_of_the_guide_to_training_train():
    pair, data = ppvae.models.VAE.mlp(4, 2, [8], likelihood="gaussian"), torch.randn(50, 4)
    before = ppvae.elbo(pair, data, seed=0, progress=False).mean()
    exec(python_blocks("docs/training.md")[4], {"ppvae": ppvae, "torch": torch, "pair": pair, "data": data})
    after = ppvae.elbo(pair, data, seed=0, progress=False).mean()
    assert after.estimate > before.estimate + 3 * before.monte_carlo_error


def test_the_runs_of_the_guide_to_training_become_chains():
    names = {"ppvae": ppvae, "VAE": ppvae.models.VAE, "data": torch.randn(50, 2), "held_out": torch.randn(5, 2)}
    exec(python_blocks("docs/training.md")[3].replace("20_000", "5, progress=False"), names)
    assert len(names["runs"].pairs) == 8


def test_logs_and_schedulers_of_the_guide_to_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"ppvae": ppvae, "torch": torch, "data": torch.randn(50, 4)}
    names["pair"] = ppvae.models.VAE.mlp(4, 2, [8], likelihood="gaussian")
    for block in python_blocks("docs/training.md")[:2]:
        exec(block.replace("epochs=100", "epochs=2, progress=False"), names)
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3


def test_the_loop_of_the_guide_to_training_trains_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair, batches = ppvae.models.VAE.mlp(4, 2, [8], likelihood="gaussian"), [torch.randn(20, 4)] * 3
    names = {"ppvae": ppvae, "pair": pair, "batches": batches}
    exec(python_blocks("docs/training.md")[2], names)
    assert names["trainer"].steps == 3
    names["trainer"].load("trainer.safetensors")


@pytest.mark.slow(90)
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping:DeprecationWarning")
def test_the_arviz_page_runs_and_says_what_is_so(capsys):
    code = "\n".join(python_blocks("docs/arviz.md"))
    names = {}
    exec(
        code.replace("import arviz as az", "from ppvae.views.arviz_export import import_arviz\naz = import_arviz()"),
        names,
    )
    assert "elpd_loo" in capsys.readouterr().out
    assert names["loo"].elpd_loo > names["evidence"].estimate.sum() + 20
    assert (names["loo"].pareto_k > 0.63).mean() > 0.5
    guide, annealed = (names["found"][name].posterior.z.sel(data=0) for name in ("guide", "annealed"))
    shift = abs(annealed.mean(("chain", "draw")) - guide.mean(("chain", "draw"))) / guide.std(("chain", "draw"))
    assert shift.max() > 0.4


@pytest.mark.slow(79)
def test_the_diffusion_of_the_guide_is_measured():
    """As printed, but for the number of epochs."""
    data = ppvae.datasets.load("moons")
    code = python_blocks("docs/diffusion.md")[0].replace("epochs=1000", "epochs=2, progress=False")
    names = {"ppvae": ppvae, "data": data.train, "held_out": data.test[:10]}
    exec(code, names)
    assert "Amortization is undefined, not zero" in names["report"].verdict()
    assert names["x"].shape == (1000, 2)


def shortened(block):
    """The block as printed, but for the number of epochs or steps, and for bars."""
    return re.sub(r"(epochs|steps)=[\d_]+", r"\1=3, progress=False", block)


@pytest.mark.slow(5)
def test_the_codes_of_their_page_train():
    x = (torch.rand(200, 2) @ torch.randn(2, 64) > 0).float()
    names = {"ppvae": ppvae, "x": x, "held_out": x[:4]}
    for block in python_blocks("docs/codes.md"):
        exec(shortened(block).replace("gap(pair, held_out)", "gap(pair, held_out, progress=False)"), names)
    assert (names["report"].amortization_gap.estimate >= 0).all()
    assert torch.equal(names["stage_two"].codes(x), names["pair"].codes(x))
    assert names["bits"].sample(3).shape == (3, 64)


@pytest.mark.slow(5)
def test_the_adversaries_of_their_page_train(capsys):
    torch.manual_seed(0)
    names = {"ppvae": ppvae, "torch": torch, "nn": torch.nn}
    gan, vae, noisy = python_blocks("docs/adversarial.md")
    exec(shortened(gan), names)
    assert "modes_found" in capsys.readouterr().out
    angle = torch.arange(8) * torch.pi / 4
    assert torch.allclose(names["centers"], 2 * torch.stack([angle.cos(), angle.sin()], -1), atol=0.02)
    exec(shortened(vae), names | {"x": torch.rand(200, 64)})
    exec(
        noisy.replace("10_000", "10").replace("annealing=annealing", "annealing=annealing, progress=False"),
        names | {"x": names["ring"].test[:3]},
    )


@pytest.mark.slow(5)
def test_the_page_on_disentanglement_runs(capsys):
    torch.manual_seed(0)
    split, critic, scores = python_blocks("docs/disentanglement.md")
    x = torch.rand(200, 64)
    vae = ppvae.models.VAE.mlp(64, 6, [20], "gaussian").init_from(x)
    names = {"ppvae": ppvae, "vae": vae, "pair": vae, "x": x}
    exec(shortened(split + critic), names)
    names["vae"] = ppvae.models.VAE.mlp(ppvae.datasets.Sprites.small().sample(1)[1].numel(), 6, [20])
    exec(scores, names)
    assert "MIG" in capsys.readouterr().out


def test_the_tests_of_a_guide_run(capsys):
    pair = ppvae.models.LinearVAE(num_features=3, num_latents=2, guide="exact")
    exec(python_blocks("docs/calibration.md")[0], {"ppvae": ppvae, "pair": pair, "x": pair.sample(5)})
    plt.close("all")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["statistic", "p_value", "adjusted_p_value"]
    assert len(lines) == 2 + 5


def test_data_as_you_have_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"ppvae": ppvae, "torch": torch, "x": torch.rand(301, 6).round(), "w": torch.ones(301)}
    names["pair"] = first = ppvae.models.VAE.mlp(6, 2, [8])
    (tmp_path / "faces").mkdir()
    Image.fromarray(torch.zeros(8, 8, dtype=torch.uint8).numpy()).save("faces/one.png")
    for block in python_blocks("docs/data.md"):
        own = dict(names) if "faces" in block else names
        exec(block.replace("epochs=10", "epochs=1, progress=False"), own)
    assert names["found"].mean.shape == names["found"].std.shape == (301, 2)
    assert names["draws"]["z"].shape == (5, 301, 2)
    assert names["means"].shape == (301, 6)
    assert names["new"].shape == (100, 6)
    assert names["pair"] is not first
    for old, new in zip(first.parameters(), names["pair"].parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_sequences_of_the_page_are_measured_by_a_filter():
    torch.manual_seed(0)
    names = {}
    exec(python_blocks("docs/sequences.md")[0], names)
    evidence, pair, data = names["evidence"], names["pair"], (names["x"], names["lengths"])
    elbo = ppvae.elbo(pair, data, seed=0, progress=False)
    assert evidence.reliable.double().mean() > 0.9
    assert evidence.mean().estimate > elbo.mean().estimate


def test_the_world_models_of_their_page_are_measured():
    torch.manual_seed(0)
    names = {}
    exec(python_blocks("docs/world-model.md")[0], names)
    exact, filtered = names["evidence"]
    assert torch.equal(exact, names["memory"].exact_elbo(names["batch"]))
    elbo = ppvae.elbo(names["space"], names["batch"], 100, seed=0, progress=False).mean()
    assert filtered.mean().estimate > elbo.estimate


@pytest.mark.slow(3)
def test_the_page_on_scikit_learn_searches():
    block = python_blocks("docs/sklearn.md")[0].replace("epochs=100", "epochs=1")
    names = {"x": torch.randn(30, 5).numpy()}
    exec(block, names)
    assert isinstance(names["density"].pair_, ppvae.Pair)


def test_the_labels_of_their_page_are_learned():
    torch.manual_seed(0)
    names = {}
    exec(python_blocks("docs/labels.md")[0], names)
    probabilities, label = names["probabilities"], names["digits"].labels["test"]
    assert names["sevens"].shape == (20, 64)
    assert (probabilities.argmax(-1) == label).double().mean() > 0.5


def test_the_table_of_the_page_is_completed():
    names = {}
    exec(python_blocks("docs/tables.md")[0], names)
    completed, frame = names["completed"], names["frame"]
    there = frame.notna()
    assert (completed.astype(object)[there] == frame.astype(object)[there])[there].all(axis=None)
    assert completed.notna().all(axis=None)
