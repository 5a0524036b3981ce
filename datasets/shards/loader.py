"""What every training step reads: which people, in which order, on which process, and made ahead by whom.

A sample shows one person and is started by one image. An epoch starts one sample from every image, in an order drawn
from seed and epoch, so people are met in proportion to their images, and each image exactly once an epoch.

Why no shuffle buffer over a stream: `datasets.shards.encoded` reads any image by its place in the tars, so an epoch's
order is one permutation over all images (better mixed than shards and a buffer can be), memory holds one batch, and
sample number n follows from the seed alone. From that follow the rules:

* Resuming needs nothing but the step's number; what comes before is not read.
* Nodes and processes: step s takes samples s*B to s*B + B - 1, of which process r of R lays out r, r + R, r + 2R, ...
  Together they make one and the same batch, whatever R is: every sample once, none twice, none left out.
* Workers: a worker makes whole steps, in turn, and they are handed over in order; their number changes nothing.
* A subset is opened as one (`EncodedImages(keys=...)`): images outside it have no number here and cannot be met.

What is paid for it: a batch's images lie anywhere in the files. On a disk that seeks slowly, give workers.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.runtime.errors import InputError
from datasets.runtime.processes import end_with_parent

Batch = TypeVar("Batch")

STEPS_AHEAD = 4
"""Steps that each worker may be ahead of the training: what bounds memory."""


@functools.lru_cache(maxsize=4)
def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """The images' numbers in the order in which they start an epoch's samples; not to be changed."""
    order = np.random.default_rng([seed, epoch, images]).permutation(images)
    order.flags.writeable = False
    return order


def starting_images(images: int, seed: int, first: int, count: int) -> np.ndarray:
    """The images that start samples `first` to `first + count - 1`, counted over all epochs.

    Args:
        images: how many there are.

    Returns:
        (count,) their numbers, 0 to `images` - 1.
    """
    numbers = np.arange(first, first + count)
    epochs, places = np.divmod(numbers, images)
    found = np.empty(count, np.int64)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        found[chosen] = epoch_order(images, seed, epoch)[places[chosen]]
    return found


class _Steps(Dataset[Batch | InputError], Generic[Batch]):
    """Steps as a map-style data set: its keys are their numbers."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Batch | InputError:
        try:
            return self.make(index)
        except InputError as error:  # handed over as it is: torch would wrap a worker's traceback into its message
            return error


def stream_steps(make: Callable[[int], Batch], steps: range, workers: int, *, pinned: bool = False) -> Iterator[Batch]:
    """What `make` gives for each step, in their order, made ahead by worker processes.

    Args:
        make: the batch of a step on this process: a function of the step's number, that workers can be given.
        workers: processes; 0: everything is made when it is requested, here.
        pinned: copy batches (which have a method `pin_memory`) into page-locked memory, for a GPU.

    Raises:
        InputError: what `make` raised.
    """
    loader = DataLoader(
        _Steps(make),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=STEPS_AHEAD if workers else None,
        pin_memory=pinned,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own: making a loader must not draw from torch's global one
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _start_worker(number: int) -> None:
    """A worker ends with the training and not before: a stop request to the group is the training's to answer.

    So it leaves the group. It must not ignore SIGTERM instead: that is how the loader ends a worker that did not end in
    time by itself, and without it the training's exit would wait for that worker forever.
    """
    os.setpgid(0, 0)
    end_with_parent()
