// Classify photos from React Native: npx expo install expo-crypto expo-file-system expo-image-manipulator
import * as Crypto from "expo-crypto";
import { File } from "expo-file-system";
import { ImageManipulator, SaveFormat } from "expo-image-manipulator";

const API = "https://api.example.com/api/v1";

/** Compress an asset of expo-image-picker; returns the address of the JPEG. */
export async function compressImage({ uri, width, height }, maxEdge = 1024, quality = 0.8) {
  const photo = ImageManipulator.manipulate(uri);
  if (Math.max(width, height) > maxEdge) photo.resize(width > height ? { width: maxEdge } : { height: maxEdge });
  const jpeg = await (await photo.renderAsync()).saveAsync({ format: SaveFormat.JPEG, compress: quality });
  return jpeg.uri;
}

/** Return the service's answer; `answer.data.category` is the category. The error it throws has a `code`. */
export async function classifyPhoto(uri, userId = "") {
  const bytes = await new File(uri).bytes();
  const digest = new Uint8Array(await Crypto.digest(Crypto.CryptoDigestAlgorithm.SHA256, bytes));
  const hash = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const headers = { "X-User-ID": userId, "Idempotency-Key": Crypto.randomUUID() }; // a repeat counts once
  const query = { headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify({ image_hash: hash }) };
  const cached = await call("/classify/check-cache", query);
  if (cached.cached) return cached;
  const form = new FormData();
  form.append("image_hash", hash);
  form.append("image", { uri, name: "photo.jpg", type: "image/jpeg" });
  return call("/classify", { headers, body: form });
}

async function call(path, request, attempts = 3) {
  const sent = fetch(API + path, { method: "POST", signal: AbortSignal.timeout(120_000), ...request });
  const response = await sent.catch((error) => (attempts > 1 ? null : Promise.reject(error)));
  if (!response) {
    // The answer is lost, as when the phone changes its network.
    await new Promise((resume) => setTimeout(resume, 1000));
    return call(path, request, attempts - 1);
  }
  const pause = Number(response.headers.get("Retry-After"));
  if (response.status === 503 && pause && attempts > 1) {
    await new Promise((resume) => setTimeout(resume, pause * 1000));
    return call(path, request, attempts - 1);
  }
  const answer = await response.json().catch(() => ({}));
  if (answer.success) return answer;
  const error = answer.error ?? { code: "http_error", message: `HTTP ${response.status}` };
  throw Object.assign(new Error(error.message), { code: error.code, requestId: answer.request_id });
}
