"""The code of the page on autoregressive models runs, as printed."""

import re
from pathlib import Path

import torch

import ppvae

PAGE = Path(__file__).parents[3] / "docs" / "autoregressive.md"


def test_the_page_runs():
    bits = torch.rand(20, 1, 8, 8).round()
    names = {"ppvae": ppvae, "bits": bits, "held_out": bits[:5]}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block.replace("epochs=10", "epochs=1, progress=False"), names)
    assert names["log_p"].shape == (5,)
    assert names["x"].shape == (16, 1, 8, 8)
    assert names["hierarchy"].sample(2).shape == (2, 1, 8, 8)
    assert names["vae"].eval().reconstruct(bits[:2]).unique().tolist() == [0.0, 1.0]
