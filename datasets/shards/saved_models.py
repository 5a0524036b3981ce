"""Saved models' folders by their files' names: which weights one holds, and why it cannot be opened. Torch-free.

diffusers reads ``diffusion_pytorch_model.safetensors``, transformers ``model.safetensors``; a large model is cut into
parts that ``....safetensors.index.json`` lists. What else lies in published folders (half precision under a name of its
own, pickled ``.bin`` files) is never read, and is answered here instead of deep inside a library.
"""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.reading.json_values import read_object
from datasets.runtime.remote.folders import fetch_folder

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""Beginnings of the weights' names."""
CONFIG_FILES = ("config.json", "preprocessor_config.json")
INDEX = ".safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def model_files(folder: Path) -> list[Path]:
    """The files of a saved model that a copy needs to be opened: config, weights and the list of their parts."""
    return sorted(
        file
        for file in Path(folder).iterdir()
        if file.suffix == ".safetensors" or file.name.endswith(INDEX) or file.name in CONFIG_FILES
    )


def same_model(one: Path, other: Path) -> bool:
    """Whether two folders hold one saved model: the same files of those that it is opened from.

    What else lies beside them does not count: a training's pictures and log, a card.
    """
    return one == other or _contents(one) == _contents(other)


def _contents(folder: Path) -> list[tuple[str, str]]:
    return [(file.name, file_sha256(file)) for file in model_files(fetch_folder(folder))]


def has_weights(folder: Path) -> bool:
    """Whether a folder, or one below it, holds a file of weights of any kind."""
    return any(file.suffix in (".safetensors", *PICKLED) for file in Path(folder).rglob("*"))


def refuse_unreadable(folder: Path, stem: str) -> None:
    """Refuse a folder that `weights_problem` finds something wrong with.

    Raises:
        WeightsError: with what is wrong and what to do.
    """
    if (problem := weights_problem(folder, stem)) is not None:
        raise WeightsError(f"{folder} {problem}")


def weights_problem(folder: Path, stem: str) -> str | None:
    """Why a folder's weights cannot be read, as the end of a sentence, or None.

    Args:
        folder: of one model: a VAE, an image encoder, a UNet.
        stem: `DIFFUSERS` or `TRANSFORMERS`, whose library reads it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return "holds no saved model (no config.json)"
    if (folder / f"{stem}.safetensors").is_file():
        return None
    if (folder / f"{stem}{INDEX}").is_file():
        return _parts_problem(folder, f"{stem}{INDEX}")
    return _other_weights(folder, stem)


def _parts_problem(folder: Path, index: str) -> str | None:
    try:
        parts = sorted(set(read_object(folder / index)["weight_map"].values()))
        missing = [part for part in parts if not (folder / part).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"holds {index}, which lists no parts; get the folder again"
    if missing:
        return f"lacks {len(missing)} of its {len(parts)} parts (first: {missing[0]}); get the folder again"
    return None


def _other_weights(folder: Path, stem: str) -> str:
    """What a folder without readable weights holds instead, and the way out."""
    names = sorted(file.name for file in folder.iterdir())
    if half := [name for name in names if ".fp16" in name and name.endswith(".safetensors")]:
        way_out = "get the files without it"
        if len(half) == 1:
            way_out += f", or call it {stem}.safetensors (it is then read as float32)"
        return f"holds half precision only, under the name {half[0]}, which is not read; {way_out}"
    if parts := [name for name in names if name.startswith(f"{stem}-0") and name.endswith(".safetensors")]:
        return f"holds {len(parts)} parts but not {stem}{INDEX}, which lists them; get that file too"
    if other := [name for name in names if name.endswith(".safetensors")]:
        return f"holds {other[0]}, but no {stem}.safetensors file, the name that is read; is it another kind of model?"
    if pickled := [name for name in names if name.endswith(PICKLED)]:
        return (
            f"holds {pickled[0]} and no .safetensors file; a pickle can run any code, so it is never opened: get the "
            "safetensors files, or save the model again with safe_serialization=True"
        )
    return "holds no saved model (no .safetensors file)"
