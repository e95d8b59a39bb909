"""Types: README's program, and more of what users call, pass `mypy --strict` but for what Pyro leaves untyped."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANNOTATED = {"def __init__(self):": "def __init__(self) -> None:", "(self, x):": "(self, x: torch.Tensor) -> None:"}

MORE = """
from functools import partial

run: ppvae.Fit = ppvae.fit(
    pair,
    digits.train,
    ppvae.IWAE(5, gradient="dreg"),
    epochs=3,
    held_out=ppvae.HeldOut(digits.validation, patience=3),
    schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=3),
    optimizer=partial(torch.optim.AdamW, weight_decay=1e-2),
    callbacks=[ppvae.CSVLogger("run.csv"), lambda fit: print(fit.epochs)],
    options=ppvae.StepOptions(clip_norm=10.0),
)
last: float = run.history["bound"][-1]
vae: ppvae.models.VAE = ppvae.models.VAE.mlp(64, 2, [10], "bernoulli", "flow").init_from(digits.train)
evidence: ppvae.Evidence = ppvae.log_evidence(vae, digits.test, "iwae", 100)
table = ppvae.compare({"a": evidence, "b": ppvae.elbo(pair, digits.test)})
bound: float = ppvae.Trainer(pair, ppvae.ELBO(beta=ppvae.LinearWarmup(100))).step(digits.train[:10])
weights: torch.Tensor = pair.log_weights(digits.test, num_particles=3).log_w
mean: float = report.mean().estimate
ppvae.save(vae, "vae.safetensors")
again: ppvae.Pair = ppvae.load("vae.safetensors")
"""
WRONG = 'ppvae.fit(pair, digits.train, epochs="three")\n'


@pytest.mark.slow(20)
def test_programs_of_users_pass_strictly_and_a_slip_does_not(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for plain, annotated in ANNOTATED.items():
        code = code.replace(plain, annotated)
    (tmp_path / "program.py").write_text(code + MORE + WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "program.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = [line for line in found.splitlines() if "error:" in line]
    ours = [line for line in errors if 'Call to untyped function "to_event"' not in line]
    assert len(ours) == 1, found
    assert 'Argument "epochs" to "fit" has incompatible type "str"' in ours[0]
