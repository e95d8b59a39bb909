"""The documentation site is built without a warning, names all that is public, and looks right in a browser."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.browser import CHROMIUM, chromium

import ppvae

ROOT = Path(__file__).parents[2]
NEEDED = [name for name in ("sphinx", "furo", "myst_nb", "websocket") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"needs the packages of '.[docs]': {', '.join(NEEDED)} missing")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: that of the folder PPVAE_SITE, or one built here."""
    if "PPVAE_SITE" in os.environ:
        return Path(os.environ["PPVAE_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "doctrees"]
    found = subprocess.run([*command, ROOT / "docs", folder / "html"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


PAGES = [
    "index",
    "ledger",
    "tutorials/first-pair",
    "gallery/index",
    "gallery/gmm_vs_vae",
    "reference/names/ppvae.gap",
    "bibliography",
]


@pytest.mark.slow(190)
def test_every_public_name_has_a_page(site):
    pages = {path.stem.rpartition(".")[2] for path in (site / "reference/names").glob("*.html")}
    for package in (ppvae, ppvae.models, ppvae.inference):
        assert {name for name in package.__all__ if not name.startswith("__")} - pages <= {
            "datasets",
            "inference",
            "models",
            "networks",
            "pictures",
            "plots",
            "sklearn",
        }


@pytest.mark.slow(1)
def test_links_within_the_site_lead_somewhere(site):
    anchors = {path.resolve(): set(re.findall(r'\bid="([^"]+)"', path.read_text())) for path in site.rglob("*.html")}
    wrong = []
    for path in anchors:
        for link in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', path.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or (anchor and anchor not in anchors.get(target, {anchor})):
                wrong.append(f"{path.relative_to(site.resolve())}: {link}")
    assert wrong == []


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False)])
def test_pages_show_without_a_complaint(site, page, name, width, dark, tmp_path):
    page.open(site / f"{name}.html", width=width, dark=dark)
    assert page.broken_images() == []
    assert page.overflow() == 0
    shots = Path(os.environ.get("PPVAE_SCREENSHOTS", tmp_path))
    page.photograph(shots / f"{name.replace('/', '-')}-{width}{'-dark' * dark}.png")
    assert page.complaints == []


def brightness(page):
    red, green, blue = re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))[:3]
    return (int(red) + int(green) + int(blue)) / 3


@pytest.mark.slow(3)
def test_the_dark_is_dark(site, page):
    assert brightness(page.open(site / "index.html")) > 200
    assert brightness(page.open(site / "index.html", dark=True)) < 60


@pytest.mark.slow(3)
def test_search_finds(site, page):
    page.open(site / "search.html", query="?q=amortization")
    page.wait_for("document.querySelectorAll('#search-results li').length > 0")
    assert "Why is my ELBO low?" in page.run("document.querySelector('#search-results').innerText")
    assert page.complaints == []
