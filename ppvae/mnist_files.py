"""The four files of MNIST: from a folder, from the cache, or from a mirror, and checked."""

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from pathlib import Path

from ppvae.files import write_file
from ppvae.progress import waiting

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MD5 = {  # of the decompressed bytes: two mirrors may compress the same file differently
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist_bytes(name: str) -> bytes:
    """The checked, decompressed bytes of one MNIST file: from a folder, or else from a mirror."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppvae" / "mnist"
    given = os.environ.get("PPVAE_DATA")
    folders = [Path(given) / "mnist", Path(given), cache] if given else [cache]
    for path in (folder / file for folder in folders for file in (f"{name}.gz", name)):
        if path.is_file():
            return _verified(path.read_bytes(), name, str(path))
    failures = []
    for url in (f"{mirror}{name}.gz" for mirror in MIRRORS):
        try:
            with waiting(f"downloading {url}"), urllib.request.urlopen(url, timeout=30) as response:
                packed = response.read()
            content = _verified(packed, name, url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {error}")
            continue
        write_file(cache / f"{name}.gz", packed)
        return content
    raise ConnectionError(
        f"mnist: no file {name}.gz in {', '.join(map(str, folders))}, and no mirror delivered it "
        f"({'; '.join(failures)}). Set PPVAE_DATA to a folder which holds the four MNIST files "
        f"({', '.join(f'{file}.gz' for file in MD5)}), or try again with a network connection"
    )


def _verified(packed: bytes, name: str, origin: str) -> bytes:
    """Decompress the content if it is gzip, and check its MD5."""
    try:
        content = gzip.decompress(packed) if packed.startswith(b"\x1f\x8b") else packed
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{origin}: found a damaged or truncated gzip file ({error}), expected {name}; get another copy"
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5[name]:
        raise ValueError(
            f"{origin}: found {len(content)} bytes with MD5 {found}, expected {name} of MNIST with MD5 "
            f"{MD5[name]}; get another copy"
        )
    return content
