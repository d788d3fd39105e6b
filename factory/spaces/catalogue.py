"""All search spaces by name."""

from typing import Final

from factory.spaces.darts import Darts
from factory.spaces.deployable import Deployable
from factory.spaces.nasbench101 import NasBench101
from factory.spaces.nasbench201 import NasBench201
from factory.spaces.plan import Input
from factory.spaces.protocol import Space
from factory.spaces.transnas import TransNasMacro, TransNasMicro

_ALL: Final[tuple[Space, ...]] = (
    Deployable(Input(32, 32, 3), 10),
    Darts(),
    NasBench101(),
    NasBench201(),
    TransNasMicro(),
    TransNasMacro(),
)
SPACES: Final[dict[str, Space]] = {space.name: space for space in _ALL}
