"""The package as it is laid out and imported: one name for each module, and no trace left by the import."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EVERYTHING = """
import importlib, pkgutil
import ppvae, ppvae.inference, ppvae.models
for module in pkgutil.walk_packages(ppvae.__path__, "ppvae."):
    importlib.import_module(module.name)
for package in (ppvae, ppvae.inference, ppvae.models):
    for name in package.__all__:
        assert getattr(package, name) is not None
"""

STATE = """
import json, logging, sys, warnings
import arviz, matplotlib, numpy, pyro, sklearn, torch
from pyro.poutine.runtime import _PYRO_STACK

def state():
    store = pyro.get_param_store().get_state()
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "a denormal": (torch.tensor([1e-41]) * 1.0).item(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "generator": torch.random.get_rng_state().tolist(),
        "torch validates": torch.distributions.Distribution._validate_args,
        "pyro validates": [pyro.infer.util.is_validation_enabled(), pyro.poutine.util.is_validation_enabled()],
        "pyro settings": {name: str(value) for name, value in pyro.settings.get().items()},
        "parameter store": [list(store["params"]), list(store["constraints"])],
        "pyro stack": len(_PYRO_STACK),
        "root log": [repr(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable],
        "pyro log": [repr(logging.getLogger("pyro").handlers), logging.getLogger("pyro").level],
        "warning filters": [str(f) for f in warnings.filters],
        "matplotlib": {name: str(value) for name, value in dict.items(matplotlib.rcParams)},
        "numpy": [numpy.geterr(), str(numpy.get_printoptions())],
        "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
    }
"""


@pytest.fixture(scope="module")
def imported():
    """State before and after everything of ppvae is imported, and the modules then there, in a fresh interpreter."""
    links = (ROOT / "ppvae" / "models").exists()  # without them a checkout is no package: only what is installed is
    script = f"{STATE}before = state()\n{EVERYTHING}print(json.dumps([before, state(), sorted(sys.modules)]))"
    cwd = ROOT if links else ROOT / "tests"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_each_module_has_one_name(imported):
    """Top-level `models` and `inference` would be second copies, with classes of their own."""
    modules = imported[2]
    assert {"ppvae", "ppvae.models.vae", "ppvae.inference.objectives.enumerated", "ppvae.pair"} <= set(modules)
    assert [name for name in modules if name.split(".")[0] in ("models", "inference")] == []


def test_import_changes_no_global(imported):
    before, after, _ = imported
    assert before["a denormal"] > 0
    assert after == before


def test_setup_maps_the_folders():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    mapping = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert mapping == {"ppvae": "ppvae", "ppvae.models": "models", "ppvae.inference": "inference"}
    rooms = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in mapping.items()
        for path in (ROOT / folder).rglob("__init__.py")
        if not {"models", "inference"} & set(path.parent.relative_to(ROOT / folder).parts)
    }
    assert set(config["options"]["packages"].split()) == rooms
    assert config["options.package_data"]["*"] == "py.typed, *.pyi, *.css"


@pytest.mark.parametrize("folder", ["models", "inference"])
def test_links_lead_to_the_same_folders(folder):
    link = ROOT / "ppvae" / folder
    if not link.exists():
        pytest.skip("a checkout without symbolic links; the mapping is the authority")
    assert link.resolve() == ROOT / folder


@pytest.mark.slow(8)
def test_the_face_shows_its_public_names_alone():
    """`dir` is what is promised, whatever else has been imported."""
    script = "import ppvae, ppvae.pair, ppvae.views.plots; print(sorted(dir(ppvae)) == sorted(set(ppvae.__all__)))"
    assert run_alone(script) == "True"


@pytest.mark.slow(3)
def test_what_is_heavy_is_imported_when_it_is_used():
    heavy = ["matplotlib", "pandas", "scipy.stats", "sklearn", "xarray", "arviz"]
    used = "import sys, ppvae; ppvae.fit, ppvae.log_evidence, ppvae.models.VAE"
    assert run_alone(f"{used}; print([name for name in {heavy} if name in sys.modules])") == "[]"


def run_alone(script):
    cwd = ROOT if (ROOT / "ppvae" / "models").exists() else ROOT / "tests"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
