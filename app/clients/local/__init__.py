"""The local model: a photo classifier that runs in this process, so that the service works without a key or a server.

features = EfficientNet-Lite2 (the whole photo and both its ends) + CenterFace (faces) + picture cues
answer   = head (one linear layer, trained by `image-classifier train`) over the features
"""

from app.clients.local.client import LocalClient

__all__ = ["LocalClient"]
