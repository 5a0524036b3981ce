"""Whether weights that a hub publishes lie in this machine's caches; found from file names alone.

A regeneration's commands work offline (`flows.process.commands`), so what is not in a cache when a run begins is missed
when its turn comes, hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

OPENPOSE_FILE = "models--lllyasviel--Annotators/snapshots/*/body_pose_model.pth"
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


def backbone_problem(name: str, environment: Mapping[str, str]) -> str | None:
    """Why a re-ID backbone cannot be had with ``weights: hub``, or None.

    Lenient where timm's registry would be needed to know for sure, because that needs torch: a cached repository or
    file of the same architecture is enough.

    Args:
        name: the backbone, as settings name it.
        environment: the commands' environment variables.
    """
    own = "give --reid.network.weights FILE.safetensors, or none to train from scratch"
    if ":" in name:
        return f"--reid.network.weights hub: only timm's networks have weights there, not '{name}'; {own}"
    if downloads(environment) or _cached_backbone(name, environment):
        return None
    fetch = f"""python -c "import timm; timm.create_model('{name}', pretrained=True)" """.rstrip()
    return (
        f"--reid.network.weights hub: the weights of '{name}' are in no cache of this machine, and a run's commands "
        f"work offline; fetch them by {fetch}, or {own}"
    )


def has_openpose(environment: Mapping[str, str]) -> bool:
    """Whether OpenPose's published weights can be had without naming their file."""
    return downloads(environment) or any(hub_cache(environment).glob(OPENPOSE_FILE))


def downloads(environment: Mapping[str, str]) -> bool:
    """Whether the commands may ask the hub: only where somebody has set HF_HUB_OFFLINE to 0 for them."""
    return environment.get("HF_HUB_OFFLINE", "1").lower() not in ("1", "on", "yes", "true")


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where `huggingface_hub` keeps what it has fetched."""
    if given := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    home = environment.get("HF_HOME")
    return (Path(home).expanduser() if home else _cache_home(environment) / "huggingface") / "hub"


def _cached_backbone(name: str, environment: Mapping[str, str]) -> bool:
    architecture = name.partition(".")[0].replace("_quickgelu", "")  # timm loads those from their twins' repositories
    repositories = hub_cache(environment).glob(f"models--*--{architecture}*")
    if any(any(folder.glob(f"snapshots/*/{file}")) for folder in repositories for file in TIMM_FILES):
        return True
    torch_home = environment.get("TORCH_HOME")
    folder = Path(torch_home).expanduser() if torch_home else _cache_home(environment) / "torch"
    return any((folder / "hub" / "checkpoints").glob(f"{architecture}*"))


def _cache_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
