/**
 * A client of Image Classifier for the browser. It compresses a photo, checks the cache with the photo's hash,
 * and uploads the photo only on a cache miss. One file, no dependencies: copy it.
 *
 * @example
 * import { classifyPhoto } from "./image-classifier.js";
 *
 * const answer = await classifyPhoto(input.files[0], { server: "https://photos.example.com" });
 * console.log(answer.data.category, answer.photo.uploaded ? "uploaded" : "cache hit");
 *
 * @module
 */

/**
 * The service's answer, and what was done with the photo.
 *
 * @typedef {object} Answer
 * @property {{category: string, confidence: number, description: string | null, description_language?: "zh" | "en"}} data  confidence is 0..1
 * @property {boolean} from_cache  no model was called, so nothing was paid
 * @property {"similar"} [match]  the answer is that of another photo, which is nearly the same
 * @property {string} [similar_to]  its SHA-256
 * @property {number} [distance]  in how many of 64 bits the two differ, 8 at most
 * @property {true} [stale]  the service's database is away, and a correction made since may be missing
 * @property {string} model  which model has given the answer, or "manual" or "feedback"
 * @property {string} request_id
 * @property {PhotoReport} photo
 */

/**
 * @typedef {object} PhotoReport
 * @property {string} hash  SHA-256 in hex
 * @property {number} bytes  size of what was hashed, and sent on a miss
 * @property {boolean} compressed  false: the browser cannot read this format, or adds noise to it, and the original file was used
 * @property {boolean} uploaded  false: a cache hit
 */

/**
 * A step begins (`milliseconds` is null) or has ended. A hit has no "upload".
 *
 * @typedef {object} Step
 * @property {"compress" | "hash" | "check" | "upload"} name
 * @property {number | null} milliseconds
 */

/**
 * @typedef {object} Options
 * @property {string} [server]  address of the service, without /api/v1; "" is where the page comes from
 * @property {string} [userId]  device or user id, for the statistics
 * @property {string} [apiKey]  where the service wants one; one that is in a page or an app can be read out of it
 * @property {"zh" | "en"} [language]  of the description, where the service leaves that to its clients; else the browser's
 * @property {AbortSignal} [signal]  ends the work; the promise rejects with the signal's reason
 * @property {(step: Step) => void} [onStep]
 * @property {number} [maxBytes]  the service's MAX_IMAGE_SIZE_MB, in bytes
 */

// Another size, quality or encoder gives other bytes, so another hash and a miss: all clients should agree on these.
const MAX_EDGE = 1024;
const QUALITY = 0.8;
const ATTEMPTS = 3;
const PAUSE_MILLISECONDS = 1000;
// The service is busy, or a proxy's rate limit is reached.
const PASSING_STATUSES = [503, 429];
// A longer pause means an outage, not a busy service.
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
export async function classifyPhoto(
  file,
  { server = "", userId = "", apiKey = "", language, signal, onStep, maxBytes = 10 * 1024 ** 2 } = {},
) {
  async function step(name, work) {
    signal?.throwIfAborted();
    onStep?.({ name, milliseconds: null });
    const start = performance.now();
    const result = await work();
    onStep?.({ name, milliseconds: performance.now() - start });
    return result;
  }

  const api = `${server.replace(/\/+$/, "")}/api/v1`;
  const search = language ? `?lang=${language}` : "";
  const headers = {
    // All tries of a request have the same key, and count once.
    "Idempotency-Key": newKey(),
    ...(userId && { "X-User-ID": headerValue(userId) }),
    ...(apiKey && { "X-API-Key": headerValue(apiKey) }),
  };

  // HEIC in most browsers, for example: the service reads more formats than they do.
  const jpeg = await step("compress", () => compressPhoto(file).catch(() => null));
  const photo = jpeg ?? file;
  if (photo.size > maxBytes) throw new ClassifyError("image_too_large", `The photo is larger than ${maxBytes} bytes.`);

  const hash = await step("hash", () => sha256(photo));
  const report = { hash, bytes: photo.size, compressed: jpeg !== null };
  // With it a photo that is nearly the same answers, too.
  const perceptual = jpeg && (await perceptualHash(jpeg).catch(() => null));
  const query = {
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ image_hash: hash, ...(perceptual && { perceptual_hash: perceptual }) }),
  };
  const cached = await step("check", () => call(`${api}/classify/check-cache${search}`, query, signal));
  if (cached.cached) return { ...cached, photo: { ...report, uploaded: false } };

  const form = new FormData();
  form.append("image_hash", hash);
  // The file's own name stays private.
  form.append("image", photo, "photo");
  const answer = await step("upload", () => call(`${api}/classify${search}`, { headers, body: form }, signal));
  return { ...answer, photo: { ...report, uploaded: true } };
}

/**
 * Makes a JPEG with a long edge of at most 1024 pixels and quality 0.8, upright, without metadata.
 *
 * @param {Blob} file
 * @returns {Promise<Blob>}
 * @throws {DOMException} the browser cannot read it, or changes what is drawn
 */
export async function compressPhoto(file) {
  if (!canvasIsTrue()) throw new DOMException("The browser adds noise to pictures.", "NotSupportedError");
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, MAX_EDGE / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  // JPEG has no transparency, and would show black.
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}

/**
 * The perceptual hash of a picture that stands upright, as the service's docs/api.md specifies it.
 *
 * @param {Blob} photo
 * @returns {Promise<string | null>} 16 hex digits; null: it has none to go by
 * @throws {DOMException} the browser cannot read it
 */
export async function perceptualHash(photo) {
  const bitmap = await createImageBitmap(photo);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return hashOfPixels(context.getImageData(0, 0, width, height).data, width, height);
}

const HASH_EDGE = 32;
const FREQUENCIES = 8;
const MIN_CONTRAST = 24;
const MAX_RATIO = 8;

/**
 * @param {Uint8ClampedArray | Uint8Array} pixels  red, green, blue and alpha of each
 * @param {number} width
 * @param {number} height
 * @returns {string | null}
 */
export function hashOfPixels(pixels, width, height) {
  if (Math.min(width, height) < HASH_EDGE || Math.max(width, height) > MAX_RATIO * Math.min(width, height)) return null;
  const luma = new Uint8Array(width * height);
  for (let i = 0; i < luma.length; i++) {
    luma[i] = (19595 * pixels[4 * i] + 38470 * pixels[4 * i + 1] + 7471 * pixels[4 * i + 2] + 32768) >> 16;
  }
  // Each row, then each column.
  const small = resizeLines(resizeLines(luma, width, height), height, HASH_EDGE);
  if (Math.max(...small) - Math.min(...small) < MIN_CONTRAST) return null;

  const places = Array.from({ length: HASH_EDGE }, (_, place) => place);
  const wave = (frequency, place) => Math.cos(((2 * place + 1) * frequency * Math.PI) / (2 * HASH_EDGE));
  const coefficients = [];
  for (let u = 0; u < FREQUENCIES; u++) {
    for (let v = 0; v < FREQUENCIES; v++) {
      const ofRow = (y) => places.reduce((sum, x) => sum + small[HASH_EDGE * y + x] * wave(v, x), 0);
      coefficients.push(places.reduce((sum, y) => sum + ofRow(y) * wave(u, y), 0));
    }
  }
  const ordered = Float64Array.from(coefficients).sort();
  const median = (ordered[ordered.length / 2 - 1] + ordered[ordered.length / 2]) / 2;
  const bits = coefficients.map((coefficient) => (coefficient > median ? "1" : "0")).join("");
  return BigInt(`0b${bits}`).toString(16).padStart(bits.length / 4, "0");
}

/** Shrinks lines of `length` values to 32 by a Lanczos filter, and turns the picture: rows become columns. */
function resizeLines(values, length, lines) {
  const resized = new Uint8ClampedArray(lines * HASH_EDGE);
  const scale = Math.max(1, length / HASH_EDGE);
  const sinc = (t) => (t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t));
  for (let place = 0; place < HASH_EDGE; place++) {
    const centre = ((place + 0.5) * length) / HASH_EDGE;
    const start = Math.max(0, Math.floor(centre - 3 * scale + 0.5));
    const end = Math.min(length, Math.floor(centre + 3 * scale + 0.5));
    const weights = [];
    for (let x = start; x < end; x++) {
      const t = (x - centre + 0.5) / scale;
      weights.push(t >= -3 && t < 3 ? sinc(t) * sinc(t / 3) : 0);
    }
    const whole = weights.reduce((sum, weight) => sum + weight, 0);
    for (let line = 0; line < lines; line++) {
      let sum = 0;
      for (let x = start; x < end; x++) sum += values[line * length + x] * weights[x - start];
      resized[place * lines + line] = Math.floor(sum / whole + 0.5);
    }
  }
  return resized;
}

/**
 * Whether the browser gives back the pixels that were drawn. One that guards against fingerprinting (Firefox'
 * resistFingerprinting, Brave, CanvasBlocker) adds noise, so that the same photo would have another hash each time.
 *
 * @returns {boolean}
 */
function canvasIsTrue() {
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  const drawn = context.createImageData(32, 32);
  // Many colours: some guards leave what is all alike. Opaque, so that no value is rounded.
  drawn.data.forEach((_, i) => (drawn.data[i] = i % 4 === 3 ? 255 : (i * 37) % 256));
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 32, 32).data;
  return drawn.data.every((value, i) => value === read[i]);
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
  // Browsers have crypto.subtle on HTTPS pages and on localhost only.
  const digest = globalThis.crypto?.subtle ? await crypto.subtle.digest("SHA-256", bytes) : digestInScript(bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * SHA-256 by FIPS 180-4, whose names its variables have. A compressed photo takes it about 10 ms.
 *
 * @param {ArrayBuffer} bytes
 * @returns {ArrayBuffer}
 */
function digestInScript(bytes) {
  // The message, a one, zeros, and the message's length in bits: blocks of 64 bytes.
  const padded = new Uint8Array((bytes.byteLength + 72) & ~63);
  padded.set(new Uint8Array(bytes));
  padded[bytes.byteLength] = 0x80;
  const message = new DataView(padded.buffer);
  message.setBigUint64(padded.length - 8, BigInt(bytes.byteLength) * 8n);

  // Fractions of the roots of the first primes.
  const fraction = (root) => ((root % 1) * 2 ** 32) | 0;
  const primes = [];
  for (let number = 2; primes.length < 64; number++) if (primes.every((prime) => number % prime)) primes.push(number);
  const K = primes.map((prime) => fraction(Math.cbrt(prime)));
  const H = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));

  const rotate = (word, bits) => (word >>> bits) | (word << (32 - bits));
  const W = new Int32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    let [a, b, c, d, e, f, g, h] = H;
    for (let t = 0; t < 64; t++) {
      if (t < 16) W[t] = message.getInt32(block + 4 * t);
      else {
        const s0 = rotate(W[t - 15], 7) ^ rotate(W[t - 15], 18) ^ (W[t - 15] >>> 3);
        const s1 = rotate(W[t - 2], 17) ^ rotate(W[t - 2], 19) ^ (W[t - 2] >>> 10);
        W[t] = W[t - 16] + s0 + W[t - 7] + s1;
      }
      const T1 = (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + W[t]) | 0;
      const T2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + T1) | 0, c, b, a, (T1 + T2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, number) => (H[number] = (H[number] + word) | 0));
  }
  const digest = new DataView(new ArrayBuffer(32));
  H.forEach((word, number) => digest.setInt32(4 * number, word));
  return digest.buffer;
}

/** Header values are bytes to fetch; the service reads UTF-8. */
function headerValue(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
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
    if (attempts > 1) {
      // The answer is lost, as when a phone changes its network.
      await wait(PAUSE_MILLISECONDS, signal);
      return call(url, request, signal, attempts - 1);
    }
    throw new ClassifyError("network_error", "The service cannot be reached.", { cause: error });
  }
  if (answer?.success) return answer;

  const pause = Number(response.headers.get("Retry-After"));
  if (PASSING_STATUSES.includes(response.status) && pause > 0 && pause <= MAX_PAUSE_SECONDS && attempts > 1) {
    await wait(pause * 1000, signal);
    return call(url, request, signal, attempts - 1);
  }
  // A proxy may answer in JSON of its own.
  const error = typeof answer?.error?.code === "string" ? answer.error : { code: "http_error", message: `HTTP ${response.status}` };
  throw new ClassifyError(error.code, error.message, { status: response.status, requestId: answer?.request_id });
}

function newKey() {
  // Not crypto.randomUUID, which browsers have on HTTPS pages and on localhost only.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
