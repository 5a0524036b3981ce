"""Person images, poses and shards: the bottom layer, which knows nothing of the packages above it.

This is the project's own package, not Hugging Face's library of the same name, which must not be installed
beside it (docs/dependencies.md). Some libraries look for that library by import name only; whoever asks this
package for one of its classes gets an explanation at once instead of failing later in a strange place.
"""

_HUGGING_FACE_NAMES = ("Dataset", "DatasetDict", "Features", "IterableDataset", "load_dataset", "load_from_disk")


def __getattr__(name: str) -> object:
    if name in _HUGGING_FACE_NAMES:
        raise ImportError(
            f"'datasets.{name}' was requested, but this is imagpose-reid's own 'datasets' package, not Hugging Face's "
            "library; run the code that needs that library in an environment of its own"
        )
    raise AttributeError(f"module 'datasets' has no attribute {name!r}")
