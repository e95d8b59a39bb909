"""The page of several modalities: its table is the registry's, and its code runs and does what the text says."""

import re
from pathlib import Path

import pytest
import torch

import ppvae
from ppvae.models.multimodal.named_fusions import FUSIONS

PAGE = (Path(__file__).parents[3] / "docs/modalities.md").read_text()


@pytest.mark.parametrize("name", FUSIONS)
def test_the_table_of_guides_is_that_of_the_registry(name):
    part = FUSIONS[name]
    row = f'| "{name}" | `{part.module.__name__}` | {part.summary} | {part.source}'.strip()
    assert f"{row} |" in PAGE.splitlines()
    assert part.module.__name__ in ppvae.models.__all__


@pytest.mark.slow(20)
def test_the_code_of_the_page_runs():
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code, measured = code.split("report = ")
    names = {}
    torch.manual_seed(0)
    exec(code.replace("epochs=100", "epochs=60, progress=False, seed=0"), names)
    drawn = names["pair"].generate(names["images"], num_samples=5)["label"]
    right = (drawn == names["test"]["label"]).double().mean()
    assert right > 0.15  # of ten classes, with an error of 0.01
    assert "gap_by_pattern(pair, few, patterns=" in measured
