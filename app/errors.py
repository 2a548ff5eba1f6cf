"""Every error the service answers with: a class with a stable code, an HTTP status and a sentence that helps.

AppError 500 internal_error
├── InvalidRequest 400 invalid_request
│   ├── HashMismatch hash_mismatch
│   ├── DigestMismatch digest_mismatch
│   ├── MissingImage missing_image
│   ├── TooManyImages too_many_images
│   ├── UnsupportedImageFormat unsupported_image_format
│   ├── CorruptImage corrupt_image
│   ├── TooManyPixels too_many_pixels
│   ├── ImageTooComplex image_too_complex
│   ├── UnknownModel unknown_model
│   ├── InvalidIdempotencyKey invalid_idempotency_key
│   ├── JobTooLarge job_too_large
│   └── WeakPassword weak_password
├── ApiKeyRequired 401 api_key_required
│   └── InvalidApiKey invalid_api_key                wrong, expired or revoked
├── DashboardLoginRequired 401 dashboard_login_required
├── AuthenticationRequired 401 authentication_required
│   ├── InvalidToken invalid_token                  forged, of an account that is gone or disabled, or ended
│   ├── TokenExpired token_expired
│   └── LoginFailed login_failed
├── InvalidSignature 401 invalid_signature
│   ├── SignatureExpired signature_expired
│   └── NonceReused nonce_reused
├── SignUpClosed 403 sign_up_closed
├── ReauthenticationRequired 403 reauthentication_required
├── Forbidden 403 forbidden
│   ├── InsufficientScope insufficient_scope
│   └── NetworkNotAllowed network_not_allowed
├── NotFound 404 not_found
│   ├── RequestNotFound request_not_found
│   ├── CacheEntryNotFound cache_entry_not_found
│   ├── ImageNotFound image_not_found                also for another account's, as all below
│   ├── TaskNotFound task_not_found
│   ├── JobNotFound job_not_found
│   └── ResultNotFound result_not_found
├── MethodNotAllowed 405 method_not_allowed
├── Conflict 409 conflict
│   ├── UsernameTaken username_taken
│   ├── EmailTaken email_taken
│   ├── TaskNotPending task_not_pending
│   ├── NothingToUndo nothing_to_undo
│   ├── JobCancelled job_cancelled
│   ├── IdempotencyKeyReused idempotency_key_reused  by another request
│   └── IdempotencyKeyInUse idempotency_key_in_use   by the same request, which is not answered yet
├── RequestTimeout 408 request_timeout
├── PayloadTooLarge 413 payload_too_large
│   ├── ImageTooLarge image_too_large
│   └── QuotaExceeded quota_exceeded
├── LimitReached 429 limit_reached
│   ├── BudgetExhausted budget_exhausted            until the next day; what is known is still answered
│   ├── UserLimit user_limit
│   └── AddressLimit address_limit
├── MisdirectedRequest 421 misdirected_request
├── HeadersTooLarge 431 headers_too_large
├── TooManyLogins 429 too_many_logins
├── TooManySignUps 429 too_many_sign_ups
├── TooManyWrongKeys 429 too_many_wrong_keys
├── RateLimited 429 rate_limited
├── TooManyTasks 429 too_many_tasks
├── TooManyStreams 429 too_many_streams
├── DatabaseUnavailable 503 database_unavailable
├── ServerBusy 503 server_busy
├── StorageUnavailable 503 storage_unavailable
└── ModelError 502 model_error                       and what is below it: app/clients/errors.py

A message is for the caller: it never holds a key, an address of ours or a provider's own text.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class AppError(Exception):
    """Base of all errors above; `message` replaces the class's own sentence, `details` is JSON for the caller.

    `message` names each of the `values` in braces, so that other languages can too (app/language/chinese.py).
    `challenge` is what a 401 asks for: https://datatracker.ietf.org/doc/html/rfc9110#section-11.6.1
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "Something went wrong on our side. Quote the request_id when you report it."
    challenge: ClassVar[str] = "Bearer"

    def __init__(
        self,
        message: str | None = None,
        *,
        values: Mapping[str, object] | None = None,
        details: Any = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.template = message or self.message
        self.values = values or {}
        # What has no values may be a text from outside, in which braces are braces.
        self.text = self.template.format(**self.values) if self.values else self.template
        self.details = details
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.text)


class InvalidRequest(AppError):
    status = 400
    code = "invalid_request"
    message = "The request is not as documented."


class HashMismatch(InvalidRequest):
    code = "hash_mismatch"
    message = "image_hash is not the SHA-256 of the uploaded bytes. Hash the very bytes that you send."


class DigestMismatch(InvalidRequest):
    code = "digest_mismatch"
    message = "The body is not the one that Content-Digest names. Hash the very bytes of the whole body."


class MissingImage(InvalidRequest):
    code = "missing_image"
    message = "Send the photo as the multipart/form-data file field 'image'."


class TooManyImages(InvalidRequest):
    code = "too_many_images"
    message = "Too many 'image' parts in one call."


class UnsupportedImageFormat(InvalidRequest):
    code = "unsupported_image_format"
    message = "The bytes are not in one of the accepted image formats."


class CorruptImage(InvalidRequest):
    code = "corrupt_image"
    message = "The image is damaged or cut off."


class TooManyPixels(InvalidRequest):
    code = "too_many_pixels"
    message = "The image has more pixels than we accept. Scale it down; 1024 pixels on the long edge are enough."


class ImageTooComplex(InvalidRequest):
    code = "image_too_complex"
    message = "Decoding this image would cost too much. Save it again as an ordinary JPEG."


class UnknownModel(InvalidRequest):
    code = "unknown_model"
    message = "There is no model of this name. GET /models lists those that can be chosen."


class InvalidIdempotencyKey(InvalidRequest):
    code = "invalid_idempotency_key"
    message = "Send one Idempotency-Key of 1 to 255 visible ASCII characters, such as a UUID."


class JobTooLarge(InvalidRequest):
    code = "job_too_large"
    message = "A job has at most 10000 pictures. Begin another one for the rest."


class WeakPassword(InvalidRequest):
    code = "weak_password"
    message = "This password is among the first that are guessed. Choose another."


class ApiKeyRequired(AppError):
    status = 401
    code = "api_key_required"
    message = "Send an API key in the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class InvalidApiKey(ApiKeyRequired):
    code = "invalid_api_key"
    message = "This API key is not valid, or not any more."


class DashboardLoginRequired(AppError):
    status = 401
    code = "dashboard_login_required"
    message = "Log in with any user name, and as the password an API key that may see this page."
    challenge = 'Basic realm="Image Classifier", charset="UTF-8"'


class AuthenticationRequired(AppError):
    status = 401
    code = "authentication_required"
    message = "Log in at POST /users/token and send the header 'Authorization: Bearer TOKEN'."


class InvalidToken(AuthenticationRequired):
    code = "invalid_token"
    message = "This token is not valid, or not any more. Log in again."


class TokenExpired(AuthenticationRequired):
    code = "token_expired"
    message = "This token has expired. Log in again."


class LoginFailed(AuthenticationRequired):
    code = "login_failed"
    message = "User name or password is wrong."


class InvalidSignature(AppError):
    status = 401
    code = "invalid_signature"
    message = "The request is not signed with an API key that counts, or not as it has arrived here."


class SignatureExpired(InvalidSignature):
    code = "signature_expired"
    message = "The signature was made more than five minutes from now. Check the clock, and sign each request anew."


class NonceReused(InvalidSignature):
    code = "nonce_reused"
    message = "A request with this nonce was here before. Sign each request with a new nonce."


class SignUpClosed(AppError):
    status = 403
    code = "sign_up_closed"
    message = "Accounts are made by the operator of this service only."


class ReauthenticationRequired(AppError):
    status = 403
    code = "reauthentication_required"
    message = "Log in again just before this change, or send your current_password with it."


class Forbidden(AppError):
    status = 403
    code = "forbidden"
    message = "This is not for you."


class InsufficientScope(Forbidden):
    code = "insufficient_scope"
    message = "This API key may not do that; details.scope is what it would need."


class NetworkNotAllowed(Forbidden):
    code = "network_not_allowed"
    message = "Requests from this address are not accepted here."


class NotFound(AppError):
    status = 404
    code = "not_found"
    message = "There is nothing at this address."


class RequestNotFound(NotFound):
    code = "request_not_found"
    message = "No request with this id is in the log. It may be older than the log is kept."


class CacheEntryNotFound(NotFound):
    code = "cache_entry_not_found"
    message = "The cache has no entry with this hash."


class ImageNotFound(NotFound):
    code = "image_not_found"
    message = "You have no image with this id."


class TaskNotFound(NotFound):
    code = "task_not_found"
    message = "You have no task with this id. Finished tasks are kept for a limited time."


class JobNotFound(NotFound):
    code = "job_not_found"
    message = "You have no job with this id. Finished jobs are kept for a limited time."


class ResultNotFound(NotFound):
    code = "result_not_found"
    message = "You have no result with this id."


class MethodNotAllowed(AppError):
    status = 405
    code = "method_not_allowed"
    message = "This address does not take this method; the Allow header names those it takes."


class Conflict(AppError):
    status = 409
    code = "conflict"
    message = "This does not fit what is there already."


class UsernameTaken(Conflict):
    code = "username_taken"
    message = "This user name is taken."


class EmailTaken(Conflict):
    code = "email_taken"
    message = "There is an account with this email address already."


class TaskNotPending(Conflict):
    code = "task_not_pending"
    message = "Only a task that has not begun can be cancelled."


class NothingToUndo(Conflict):
    code = "nothing_to_undo"
    message = "Nothing was done to this entry by hand that can be undone."


class JobCancelled(Conflict):
    code = "job_cancelled"
    message = "This job is cancelled: it takes no further pictures."


class IdempotencyKeyReused(Conflict):
    code = "idempotency_key_reused"
    message = "Another request had this Idempotency-Key. Make a new key for each request, and keep it for its repeats."


class IdempotencyKeyInUse(Conflict):
    code = "idempotency_key_in_use"
    message = "The first request with this Idempotency-Key is not answered yet. Send this one again in a moment."


class RequestTimeout(AppError):
    status = 408
    code = "request_timeout"
    message = "The request did not arrive in time. Send it again on a better connection."


class PayloadTooLarge(AppError):
    status = 413
    code = "payload_too_large"
    message = "The request body is larger than we accept."


class ImageTooLarge(PayloadTooLarge):
    code = "image_too_large"
    message = "The image file is larger than we accept. Compress it: JPEG, 1024 pixels, quality 80."


class QuotaExceeded(PayloadTooLarge):
    code = "quota_exceeded"
    message = "Your library is full. Delete some images first."


class LimitReached(AppError):
    status = 429
    code = "limit_reached"
    message = "A limit is reached. Try again later."


class BudgetExhausted(LimitReached):
    code = "budget_exhausted"
    message = "The budget for new photos is used up for today. Photos that are known are still answered."


class UserLimit(LimitReached):
    code = "user_limit"
    message = "This user has sent as many new photos as a day allows. Photos that are known are still answered."


class AddressLimit(LimitReached):
    code = "address_limit"
    message = "This network has sent as many new photos as an hour allows. Photos that are known are still answered."


# What a route that asks a model for a new photo may answer.
LIMIT_ERRORS: tuple[type[LimitReached], ...] = (BudgetExhausted, UserLimit, AddressLimit)


class HeadersTooLarge(AppError):
    status = 431
    code = "headers_too_large"
    message = "The request has more than 100 header lines, or more than 64 KB of them."


class MisdirectedRequest(AppError):
    status = 421
    code = "misdirected_request"
    message = "There is no service of this name here."


class TooManyLogins(AppError):
    status = 429
    code = "too_many_logins"
    message = "Too many failed log-ins. Wait a moment before the next."


class TooManySignUps(AppError):
    status = 429
    code = "too_many_sign_ups"
    message = "Too many accounts were made from this address. Wait a moment before the next."


class TooManyWrongKeys(AppError):
    status = 429
    code = "too_many_wrong_keys"
    message = "Too many wrong API keys, signatures or tokens came from this address. Wait a moment before the next."


class RateLimited(AppError):
    status = 429
    code = "rate_limited"
    message = "Too many requests in the last minute; details.per_minute is how many may be made."


class TooManyTasks(AppError):
    status = 429
    code = "too_many_tasks"
    message = "Too many of your tasks are not finished yet. Wait for some of them, or cancel some."


class TooManyStreams(AppError):
    status = 429
    code = "too_many_streams"
    message = "Too many of your connections listen already. Close some of them."


class DatabaseUnavailable(AppError):
    status = 503
    code = "database_unavailable"
    message = "The database cannot be reached. Try again shortly."


class ServerBusy(AppError):
    status = 503
    code = "server_busy"
    message = "The service is full. Try again shortly."


class StorageUnavailable(AppError):
    status = 503
    code = "storage_unavailable"
    message = "The storage of the pictures cannot be reached. Try again shortly."
