"""Several modalities: a missing one is not there, one alone is a VAE, and weights are no part of a bound."""

import pytest
import torch
from torch import nn

import ppvae
from ppvae.models import VAE, MultimodalVAE, batch_with_missing
from ppvae.models.multimodal.missing import kept_at_random
from ppvae.models.multimodal.named_fusions import FUSIONS

pytestmark = pytest.mark.usefixtures("float64")
quiet = {"seed": 0, "progress": False}


def with_label(posterior="product", **settings):
    torch.manual_seed(0)
    return MultimodalVAE.mlp({"image": 6, "label": 3}, 2, [5], {"label": "label"}, posterior, **settings)


def batch(has):
    torch.manual_seed(1)
    has = torch.tensor(has)
    return {"image": torch.rand(len(has), 6).round(), "label": torch.randint(3, (len(has),)), "has": has}


def gradients(pair, x):
    """Of the ELBO with common random numbers."""
    torch.manual_seed(3)
    pair.zero_grad()
    _, surrogate = ppvae.ELBO(num_particles=2, kl="monte_carlo")(pair, x)
    surrogate.sum().backward()
    return {name: p.grad for name, p in pair.named_parameters()}


def without_label(pair, posterior="product", **settings):
    """A pair of images alone, with the parameters of one that has labels too."""
    alone = MultimodalVAE.mlp({"image": 6}, 2, [5], posterior=posterior, **settings)
    alone.load_state_dict({name: t for name, t in pair.state_dict().items() if name in alone.state_dict()})
    return alone


def test_a_missing_modality_is_the_pair_without_it():
    """The same draws, weights and gradients."""
    pair = with_label(private={"image": 1, "label": 1})
    alone, x = without_label(pair, private={"image": 1}), batch([[True, False]] * 4)
    found = []
    for each, data in ((pair, x), (alone, {"image": x["image"]})):
        torch.manual_seed(2)
        found.append(each.log_weights(data, 3).log_w)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    own, others = gradients(pair, x), gradients(alone, {"image": x["image"]})
    for name, gradient in others.items():
        torch.testing.assert_close(own[name], gradient)
    assert all(gradient is None or not gradient.any() for name, gradient in own.items() if "label" in name)


@pytest.mark.parametrize("posterior", [name for name in FUSIONS if name != "joint"])
def test_a_guide_of_what_is_there_is_the_guide_without_the_rest(posterior):
    pair = with_label(posterior)
    alone, x, z = without_label(pair, posterior), batch([[True, False]] * 4), torch.randn(3, 4, 2)
    expected = alone.posterior({"image": x["image"]}, torch.ones(4, 1, dtype=torch.bool)).log_prob(z)
    torch.testing.assert_close(pair.posterior(*pair.split(x)).log_prob(z), expected)


@pytest.mark.parametrize("posterior", FUSIONS)
def test_what_stands_in_for_a_missing_modality_changes_nothing(posterior):
    pair, x = with_label(posterior, private={"label": 2}), batch([[True, False]] * 4)
    other = x | {"label": (x["label"] + 1) % 3}
    found = []
    for data in (x, other):
        torch.manual_seed(2)
        found.append(pair.log_weights(data, 3).log_w)
    assert torch.equal(*found)
    own, others = gradients(pair, x), gradients(pair, other)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(own.values(), others.values(), strict=True))


@pytest.mark.parametrize("posterior", ["product", "mixture", "mixture of products"])
def test_a_row_with_nothing_has_the_prior_and_no_evidence(posterior):
    pair, x = with_label(posterior, private={"image": 1}), batch([[False, False]] * 4)
    torch.testing.assert_close(pair.log_weights(x, 50).log_w, torch.zeros(50, 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("posterior", FUSIONS)
def test_one_modality_is_a_vae(posterior):
    torch.manual_seed(0)
    pair = MultimodalVAE.mlp({"x": 6}, 2, [5], posterior=posterior)

    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.posterior = pair.posterior

        def forward(self, x):
            return self.posterior({"x": x}, torch.ones(len(x), 1, dtype=torch.bool))

    vae, x = VAE(pair.prior, pair.likelihoods["x"], Of()), torch.rand(4, 6).round()
    found = []
    for each, data in ((pair, {"x": x}), (vae, x)):
        torch.manual_seed(2)
        found.append(each.log_weights(data, 3).log_w)
    assert torch.equal(*found)


def test_weights_are_in_the_gradient_and_in_no_bound():
    plain, weighted = with_label(), with_label(weights={"label": 7.0})
    x = batch([[True, True]] * 4)
    torch.manual_seed(3)
    value = ppvae.ELBO(kl="monte_carlo")(plain, x)[0]
    torch.manual_seed(3)
    assert torch.equal(ppvae.ELBO(kl="monte_carlo")(weighted, x)[0], value)
    last = "likelihoods.label.network.2.bias"
    torch.testing.assert_close(gradients(weighted, x)[last], 7 * gradients(plain, x)[last])
    of_image = "likelihoods.image.network.2.bias"
    torch.testing.assert_close(gradients(weighted, x)[of_image], gradients(plain, x)[of_image])
    with pytest.raises(ppvae.ContractError, match=r"site 'label': found scaled by poutine.scale.*train with ELBO"):
        ppvae.IWAE(5)(weighted, x)


def test_subsets_are_drawn_uniformly_from_what_is_there():
    torch.manual_seed(0)
    has, num = torch.tensor([[True, False, True], [False, True, False]]), 30000
    kept = kept_at_random(has.repeat(num, 1)).reshape(num, 2, 3)
    assert (kept[:, 1] == has[1]).all()
    subset = kept[:, 0].long() @ torch.tensor([1, 2, 4])
    share = subset.bincount(minlength=8) / num
    error = (1 / 3 * 2 / 3 / num) ** 0.5
    assert ((share[[1, 4, 5]] - 1 / 3).abs() < 4.5 * error).all()
    assert not share[[0, 2, 3, 6, 7]].any()
    assert not kept_at_random(torch.zeros(3, 2, dtype=torch.bool)).any()


@pytest.mark.parametrize("num", [20, 30, 45])
def test_each_of_many_modalities_is_kept_half_of_the_time(num):
    torch.manual_seed(0)
    share = kept_at_random(torch.ones(10000, num, dtype=torch.bool)).float().mean(0)
    assert ((share - 0.5).abs() < 4.5 * 0.005).all()
    with pytest.raises(ValueError, match="has: found 46 modalities, expected 45 at most"):
        kept_at_random(torch.ones(1, 46, dtype=torch.bool))


@pytest.mark.slow(4)
def test_training_with_hidden_modalities_raises_the_bounds_of_single_ones():
    """From a pair trained on whole rows, on data of which either half tells the other."""
    torch.manual_seed(0)
    sign = torch.randint(2, (400, 1)) * 2.0 - 1
    x = {name: sign + 0.3 * torch.randn(400, 3) for name in ("a", "b")}
    elbos = {}
    for how in ("whole", "hidden"):
        torch.manual_seed(1)
        pair = MultimodalVAE.mlp({"a": 3, "b": 3}, 1, [8], dict.fromkeys("ab", "gaussian"))
        transform = pair.hide_at_random if how == "hidden" else None
        ppvae.fit(pair, x, steps=150, lr=2e-2, transform=transform, compile=False, **quiet)
        one = x | {"has": torch.tensor([[True, False]]).expand(400, 2)}
        elbos[how] = ppvae.elbo(pair, one, 100, **quiet)
    gain = (elbos["hidden"].estimate - elbos["whole"].estimate).mean()
    error = (sum(elbo.std_error.square().sum() for elbo in elbos.values())) ** 0.5 / 400
    assert gain > 5 * error


def test_what_is_shared_stays_where_private_latents_are_redrawn():
    """z, by the label that it decides, is the guide's for each draw; w is the guide's, or the prior's."""
    pair, num = with_label(private={"image": 2}), 20000
    with torch.no_grad():
        pair.likelihoods["image"].network[0].weight[:, 2:] *= 10
    x = batch([[True, True]])
    torch.manual_seed(2)
    latents = pair.latents(x, num)
    redrawn = torch.randn(num, 1, 2)
    for private, w in (("guide", latents["w_image"]), ("prior", redrawn)):
        image = pair.generate(x, num, private)["image"][:, 0]
        expected = pair.likelihoods["image"](torch.cat([latents["z"], w], -1)).mean[:, 0].detach()
        error = ((image.var(0) + expected.var(0)) / num).sqrt()
        assert ((image.mean(0) - expected.mean(0)).abs() < 4.5 * error).all()
    shares = [pair.generate(x, num, private)["label"].double().mean() for private in ("guide", "prior")]
    assert abs(shares[0] - shares[1]) < 4.5 * (2 / num) ** 0.5


def test_nan_stands_for_what_is_missing():
    nan = float("nan")
    image = torch.tensor([[1.0, 0.0], [nan, nan], [0.0, 1.0]])
    found = batch_with_missing({"image": image, "label": torch.tensor([1, 0, 2])})
    assert found["has"].tolist() == [[True, True], [False, True], [True, True]]
    assert found["image"].tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    with pytest.raises(
        ValueError, match=r"modalities\[image\]: found row 1 with NaN in 1 of 2 numbers, expected none or"
    ):
        batch_with_missing({"image": torch.tensor([[1.0, 0.0], [nan, 0.0]])})
    pair = MultimodalVAE.mlp({"image": 2, "label": 3}, 2, [5], {"label": "label"})
    with pytest.raises(ValueError, match=r"data\[image\]: found nan at index \(1, 0\)"):
        pair.log_weights({"image": image, "label": torch.zeros(3).long(), "has": found["has"]})
    assert pair.log_weights(found).log_w.isfinite().all()


def test_batches_of_other_modalities_are_refused():
    pair, x = with_label(), batch([[True, True]] * 4)
    with pytest.raises(ppvae.ContractError, match=r"found modalities \['image'\], expected \['image', 'label'\]"):
        pair.log_weights({"image": x["image"]})
    with pytest.raises(ppvae.ContractError, match=r"has: found shape \[3, 1\], expected \[B, 2\], columns for"):
        pair.log_weights(x | {"has": x["has"][:, :1]})
    with pytest.raises(TypeError, match="batch: found Tensor, expected a dict of modalities"):
        pair.split(x["image"])
    with pytest.raises(ValueError, match=r"likelihoods: found \['z'\], expected modalities, none called 'has' or 'z'"):
        MultimodalVAE.mlp({"z": 3}, 2)
    with pytest.raises(ValueError, match=r"private, weights: found \['c'\], expected some of \['a'\]"):
        MultimodalVAE.mlp({"a": 3}, 2, weights={"c": 2.0})
    for named in ({"likelihoods": {"c": "label"}}, {"private": {"c": 2}}):
        with pytest.raises(ValueError, match=r"likelihoods, private: found \['c'\], expected some of \['a'\]"):
            MultimodalVAE.mlp({"a": 3}, 2, **named)
    with pytest.raises(ValueError, match=r"levels: found \['c'\], expected some of \['a'\]"):
        MultimodalVAE.mlp({"a": 3}, 2, levels={"c": 4})
    with pytest.raises(ValueError, match=r"subsets: found \[\['c'\]\], expected one or more, each of some of \['a'\]"):
        ppvae.models.MixtureOfProducts({"a": nn.Linear(2, 2)}, [["c"]])


def test_a_saved_pair_is_made_again(tmp_path):
    pair, x = with_label(private={"image": 1}, weights={"label": 2.0}), batch([[True, False], [True, True]])
    ppvae.save(pair, tmp_path / "pair.safetensors")
    again = ppvae.load(tmp_path / "pair.safetensors")
    found = []
    for each in (pair, again):
        torch.manual_seed(2)
        found.append(each.log_weights(x, 3).log_w)
    assert torch.equal(*found)
    assert again.weights == {"label": 2.0}


def test_likelihoods_start_from_the_rows_that_have_them():
    pair = with_label()
    x = {"image": torch.ones(4, 6), "label": torch.tensor([0, 1, 1, 2]), "has": torch.ones(4, 2, dtype=torch.bool)}
    x["image"][0], x["has"][0, 0], x["has"][3, 1] = 0.0, False, False
    pair.init_from(x)
    torch.testing.assert_close(pair.likelihoods["image"].network[-1].bias, torch.full((6,), 0.99).logit())
    expected = torch.tensor([2.0, 3.0, 1.0]) / 6
    torch.testing.assert_close(pair.likelihoods["label"].network[-1].bias.softmax(-1), expected)


def test_labels_may_be_floating_as_they_are_where_some_were_nan():
    x = batch([[True, True], [True, False], [False, True]])
    pair = with_label()
    floating = x | {"label": x["label"].double()}
    found = [ppvae.elbo(pair, data, seed=0, progress=False).estimate for data in (x, floating)]
    assert torch.equal(*found)
