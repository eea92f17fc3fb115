# SPDX-License-Identifier: Apache-2.0
"""Localizers whose libraries cannot be installed beside this project's: they run in an environment of their own.

How to add a model (SAT, BiomedParse, …): write a file with one function ``load(options)`` that imports what it needs,
loads the model, and returns a function ``localize(volume, affine, prompts)``. ``volume`` is a numpy array ``[X, Y, Z]``
(RAS+; or ``[X, Y]``, X to the right and Y down), float32 with the intensities of the file; ``affine`` is ``[4, 4]``,
from voxels to RAS millimetres; ``prompts`` is a list of ``P`` phrases. It returns probabilities ``[P, X, Y, Z]`` in
[0, 1] on the same grid. Turn axes, resample and normalise there as the model's own code does, and raise what goes
wrong: the message reaches the user. The file may print, and import whatever its environment holds, but nothing of this
project; ``voxtell_worker.py`` beside this file is an example. Then name it in a file of ``bundle/configs/localizers``::

    _target_: custom.localizers.external.ExternalLocalizer
    worker: path/to/sat_worker.py
    python: path/to/sat-env/bin/python    # null: this project's own
    options: {checkpoint: path/to/weights}
    native_dims: [3]

Maps are kept by the region store like any others, beside a record that holds the options and a hash of the file.
"""

from custom.localizers.external.host import ExternalLocalizer
from custom.localizers.external.process import WorkerError
from custom.localizers.external.voxtell_host import VoxTell

__all__ = ["ExternalLocalizer", "VoxTell", "WorkerError"]
