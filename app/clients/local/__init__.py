"""The local model: a photo classifier that runs in this process, so that the service works without a key or a server.

features = EfficientNet-Lite2 (one look at the squashed photo) + CenterFace (faces) + picture cues
answer   = head (one linear layer, trained by `train.py`) over the features
"""

from app.clients.local.client import LocalClient

__all__ = ["LocalClient"]
