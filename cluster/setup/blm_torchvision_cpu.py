"""Lets the CUDA build of torchvision be imported beside a CPU-only torch.

The package registry carries CUDA builds of torchvision alone. Their compiled operators cannot load next to a CPU
torch, and `import torchvision` then fails with "operator torchvision::nms does not exist", taking transformers'
Qwen2.5-VL processor and vLLM with it. torchvision's Python transforms need none of those operators, only their
schemas: this hook defines them just before torchvision is first imported, in every process (a `.pth` file installs
it; see `cluster/setup/environment.sh`).

It does nothing where torchvision's own operators can load: with a CUDA or ROCm torch, or with a `+cpu` torchvision.
Every interpreter of the environment imports this file, so it imports next to nothing itself.
"""

import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio,"
    " bool aligned) -> Tensor",
)
_kept_alive = []  # torch.library.Library unregisters its schemas when it is collected


class _DefineSchemasFirst:
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            define_schemas()
        # Finds nothing itself: the ordinary finders go on from here.


def define_schemas() -> None:
    """Declare torchvision's operators for a CPU torch that cannot load torchvision's compiled ones."""
    import importlib.metadata

    import torch

    has_accelerator_build = torch.version.cuda is not None or torch.version.hip is not None
    if has_accelerator_build or importlib.metadata.version("torchvision").endswith("+cpu"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _kept_alive.append(library)


def install() -> None:
    """Put the hook in front of the import system; called from the `.pth` line at interpreter start."""
    if not any(isinstance(finder, _DefineSchemasFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DefineSchemasFirst())
