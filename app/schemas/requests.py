"""Body of the look-up of one logged request."""

from pydantic import ConfigDict

from app.schemas.common import EXAMPLE_HASH, EXAMPLE_MODEL, EXAMPLE_REQUEST_ID, EXAMPLE_TIMESTAMP, DataResponse
from app.services.request_log.service import LoggedRequest


class LoggedRequestResponse(DataResponse[LoggedRequest]):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "data": {
                        "request_id": EXAMPLE_REQUEST_ID,
                        "user_id": "device_uuid_abc123",
                        "image_hash": EXAMPLE_HASH,
                        "image_size": 412678,
                        "category": "travel_scenery",
                        "confidence": 0.9523,
                        "from_cache": True,
                        "processing_time_ms": 45,
                        "model": EXAMPLE_MODEL,
                        "created_at": EXAMPLE_TIMESTAMP,
                    },
                }
            ]
        }
    )
