const API = "http://127.0.0.1:8000/api/v1";

export async function compressImage(file, maxEdge = 1024, quality = 0.8) {
  const photo = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, maxEdge / Math.max(photo.width, photo.height));
  const canvas = new OffscreenCanvas(Math.round(photo.width * scale), Math.round(photo.height * scale));
  canvas.getContext("2d").drawImage(photo, 0, 0, canvas.width, canvas.height);
  const jpeg = await canvas.convertToBlob({ type: "image/jpeg", quality });
  return new Uint8Array(await jpeg.arrayBuffer());
}

export async function classifyPhoto(bytes, userId = "") {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hash = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const headers = { "X-User-ID": userId };
  const question = { headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify({ image_hash: hash }) };
  const known = await call("/classify/check-cache", question);
  if (known.cached) return known;
  const form = new FormData();
  form.append("image_hash", hash);
  form.append("image", new Blob([bytes], { type: "image/jpeg" }), "photo.jpg");
  return call("/classify", { headers, body: form });
}

async function call(path, request, attempts = 3) {
  const response = await fetch(API + path, { method: "POST", signal: AbortSignal.timeout(120_000), ...request });
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
