/**
 * A client of Image Classifier for the browser. It makes a photo small, asks the service with the photo's hash, and
 * uploads the photo only if the service does not know it. One file, no dependencies: copy it.
 *
 * @example
 * import { classifyPhoto } from "./image-classifier.js";
 *
 * const answer = await classifyPhoto(input.files[0], { server: "https://photos.example.com" });
 * console.log(answer.data.category, answer.photo.uploaded ? "was new" : "was known");
 *
 * @module
 */

/**
 * What the service says, and what became of the photo.
 *
 * @typedef {object} Answer
 * @property {{category: string, confidence: number, description: string | null}} data  confidence is 0..1
 * @property {boolean} from_cache  no model was asked, so nothing was paid
 * @property {string} request_id
 * @property {PhotoReport} photo
 */

/**
 * @typedef {object} PhotoReport
 * @property {string | null} hash  SHA-256 in hex; null where the browser computes none (a page without HTTPS)
 * @property {number} bytes  size of what was hashed, and sent on a miss
 * @property {boolean} compressed  false: the browser cannot read this format, and the file was taken as it is
 * @property {boolean} uploaded  false: the hash was enough
 */

/**
 * A step begins (`milliseconds` is null) or has ended. A hit has no "upload"; without a hash there is no "check".
 *
 * @typedef {object} Step
 * @property {"compress" | "hash" | "check" | "upload"} name
 * @property {number | null} milliseconds
 */

/**
 * @typedef {object} Options
 * @property {string} [server]  address of the service, without /api/v1; "" is where the page comes from
 * @property {string} [userId]  device or user id, for the statistics
 * @property {AbortSignal} [signal]  ends the work; the promise rejects with the signal's reason
 * @property {(step: Step) => void} [onStep]
 * @property {number} [maxBytes]  the service's MAX_IMAGE_SIZE_MB, in bytes
 */

// Another size, quality or encoder gives other bytes, so another hash and a miss: all clients should agree on these.
const MAX_EDGE = 1024;
const QUALITY = 0.8;
const ATTEMPTS = 3;
// Who asks for more patience than this is out of order, not busy.
const MAX_PAUSE_SECONDS = 30;
// The service gives up on a model after 110 seconds.
const TIMEOUT_MILLISECONDS = 120_000;

/** The file cannot be read, or the service refused it or could not be reached; `code` is stable, `message` is for people. */
export class ClassifyError extends Error {
  /**
   * @param {string} code  one of the service's codes, or unreadable, network_error, timeout, http_error
   * @param {string} message
   * @param {{status?: number, requestId?: string, cause?: unknown}} [more]
   */
  constructor(code, message, { status, requestId, cause } = {}) {
    super(message, { cause });
    this.name = "ClassifyError";
    this.code = code;
    this.status = status;
    this.requestId = requestId;
  }
}

/**
 * Classifies one photo.
 *
 * @param {Blob} file  such as a File of <input type="file">
 * @param {Options} [options]
 * @returns {Promise<Answer>}
 * @throws {ClassifyError}
 */
export async function classifyPhoto(file, { server = "", userId = "", signal, onStep, maxBytes = 10 * 1024 ** 2 } = {}) {
  async function step(name, work) {
    signal?.throwIfAborted();
    onStep?.({ name, milliseconds: null });
    const start = performance.now();
    const result = await work();
    onStep?.({ name, milliseconds: performance.now() - start });
    return result;
  }

  const api = `${server}/api/v1`;
  // Header values are bytes to fetch; the service reads UTF-8.
  const headers = userId ? { "X-User-ID": String.fromCharCode(...new TextEncoder().encode(userId)) } : {};

  // HEIC in most browsers, for example: the service reads more formats than they do.
  const jpeg = await step("compress", () => compressPhoto(file).catch(() => null));
  const photo = jpeg ?? file;
  if (photo.size > maxBytes) throw new ClassifyError("image_too_large", `The photo is larger than ${maxBytes} bytes.`);

  // crypto.subtle exists on HTTPS pages and on localhost only. The service computes the hash in any case.
  const hash = globalThis.crypto?.subtle ? await step("hash", () => sha256(photo)) : null;
  const report = { hash, bytes: photo.size, compressed: jpeg !== null };
  if (hash !== null) {
    const body = JSON.stringify({ image_hash: hash });
    const question = { headers: { ...headers, "Content-Type": "application/json" }, body };
    const known = await step("check", () => call(`${api}/classify/check-cache`, question, signal));
    if (known.cached) return { ...known, photo: { ...report, uploaded: false } };
  }

  const form = new FormData();
  if (hash !== null) form.append("image_hash", hash);
  // The file's own name is nobody's business.
  form.append("image", photo, "photo");
  const answer = await step("upload", () => call(`${api}/classify`, { headers, body: form }, signal));
  return { ...answer, photo: { ...report, uploaded: true } };
}

/**
 * Makes a JPEG of at most 1024 pixels' length and quality 0.8, upright, without metadata.
 *
 * @param {Blob} file
 * @returns {Promise<Blob>}
 * @throws {DOMException} the browser cannot read it
 */
export async function compressPhoto(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, MAX_EDGE / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  // JPEG knows no transparency, and would show black.
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}

/**
 * @param {Blob} blob
 * @returns {Promise<string>} 64 hex digits
 * @throws {ClassifyError} it cannot be read: a folder, or a file that is gone
 */
async function sha256(blob) {
  const bytes = await blob.arrayBuffer().catch((cause) => {
    throw new ClassifyError("unreadable", "The file cannot be read.", { cause });
  });
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function call(url, request, signal, attempts = ATTEMPTS) {
  const timeout = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
  let response, answer;
  try {
    response = await fetch(url, { method: "POST", ...request, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
    // A proxy's error page is not JSON.
    answer = await response.json().catch((error) => (error instanceof SyntaxError ? {} : Promise.reject(error)));
  } catch (error) {
    signal?.throwIfAborted();
    if (timeout.aborted) throw new ClassifyError("timeout", "The service takes too long to answer.", { cause: error });
    throw new ClassifyError("network_error", "The service cannot be reached.", { cause: error });
  }
  if (answer.success) return answer;

  const pause = Number(response.headers.get("Retry-After"));
  if (response.status === 503 && pause > 0 && pause <= MAX_PAUSE_SECONDS && attempts > 1) {
    await wait(pause * 1000, signal);
    return call(url, request, signal, attempts - 1);
  }
  const { code, message } = answer.error ?? { code: "http_error", message: `HTTP ${response.status}` };
  throw new ClassifyError(code, message, { status: response.status, requestId: answer.request_id });
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
