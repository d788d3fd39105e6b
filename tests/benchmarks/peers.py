"""Networks a user could take instead: stock small ones of timm. For comparison only; the factory uses none."""

import importlib.util
import re
from pathlib import Path
from typing import Final

import torch
from torch import nn

STOCK: Final = ("mobilenetv3_small_050", "mobilenetv4_conv_small_035", "lcnet_050", "resnet18")


def _declare_torchvision_operators() -> torch.library.Library:
    """timm imports torchvision, whose wheels bring operators for CUDA builds of torch only; none of them is used."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    library = torch.library.Library("torchvision", "DEF")
    source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    for name in sorted({"nms", *re.findall(r'(?:register_meta\(|torchvision::)"?(\w+)"?', source)}):
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


_library = None


def stock(name: str, channels: int, classes: int) -> nn.Module:
    """A timm network with random weights."""
    global _library  # noqa: PLW0603 - the declaration must outlive the import
    if _library is None:
        _library = _declare_torchvision_operators()
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes)
    return network
