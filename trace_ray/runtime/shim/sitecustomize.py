"""Put on PYTHONPATH by ``trace_ray.runtime.environment`` only where these add-ons cannot be imported: hides them."""

import sys

for _name in ("torchvision", "torchaudio", "torchcodec"):
    sys.modules[_name] = None  # type: ignore[assignment]
