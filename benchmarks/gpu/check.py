# SPDX-License-Identifier: Apache-2.0
"""Does a machine have what the study needs? Lists packages, GPU, processor and shared memory; needs none of them.

    python -m benchmarks.gpu.check

Exit status 1: something that must be there is missing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys

# Name to import, name to install.
NEEDED = {
    "torch": "torch",
    "monai": "monai",
    "ignite": "pytorch-ignite",
    "yaml": "pyyaml",
    "nibabel": "nibabel",
    "PIL": "pillow",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
    "safetensors": "safetensors",
}
OPTIONAL = {
    "fire": ("fire", "the command line of monai.bundle, which the study does not use"),
    "itk": ("itk", "DICOM and NRRD; the packed pictures are PNG"),
    "pydicom": ("pydicom", "DICOM"),
    "timm": ("timm", "the optimizer lamb; the study uses adamw"),
    "torchvision": ("torchvision", "timm and open_clip"),
    "transformers": ("transformers", "vision-language localizers; the maps are packed"),
    "open_clip": ("open_clip_torch", "likewise"),
}
SHARED_MEMORY_GIB = 4  # batches on their way from the worker processes


def main() -> int:
    """List everything; return the exit status."""
    missing = [name for name, package in NEEDED.items() if not report(name, package, "NEEDED: install it")]
    for name, (package, use) in OPTIONAL.items():
        report(name, package, f"not needed here ({use})")
    ready = not missing
    if "torch" not in missing:
        ready &= report_gpu()
    if "PIL" not in missing:
        ready &= report_webp()
    report_machine()
    return 0 if ready else 1


def report(name: str, package: str, otherwise: str) -> bool:
    """Print a package's version or what its absence means; return whether it is there."""
    there = importlib.util.find_spec(name) is not None
    try:
        print(f"{package:>16}  {importlib.metadata.version(package) if there else 'missing, ' + otherwise}")
    except importlib.metadata.PackageNotFoundError:
        print(f"{package:>16}  there, of unknown version")
    return there


def report_gpu() -> bool:
    """Print what the GPU is; return whether it can do the study."""
    import torch

    if not torch.cuda.is_available():
        print("             GPU  missing: the study would run on the processor, for weeks")
        return False
    print(f"             GPU  {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    if not torch.cuda.is_bf16_supported():
        print("        bfloat16  NEEDED: this GPU does not have it")
        return False
    return True


def report_webp() -> bool:
    """Print whether Pillow reads the packed pictures; return it."""
    from PIL import features

    there = bool(features.check("webp"))
    print(f"            WebP  {'read by Pillow' if there else 'NEEDED: install a Pillow that reads it'}")
    return there


def report_machine() -> None:
    """Print what loading depends on."""
    cores = len(os.sched_getaffinity(0))
    print(f"           cores  {cores}; set machine/num_workers in study.yaml to about as many")
    shared = shutil.disk_usage("/dev/shm").total / 2**30 if os.path.isdir("/dev/shm") else 0.0
    advice = "" if shared >= SHARED_MEMORY_GIB else f"; below {SHARED_MEMORY_GIB} GiB use fewer workers"
    print(f"   shared memory  {shared:.1f} GiB{advice}")


if __name__ == "__main__":
    sys.exit(main())
