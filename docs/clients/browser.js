// Classify photos from a web page. image-classifier.js compresses, hashes, checks the cache and uploads on a miss.
import { classifyPhoto } from "./image-classifier.js";

const input = document.querySelector("input[type=file]");
input.addEventListener("change", async () => {
  const [file] = input.files;
  if (!file) return;
  const answer = await classifyPhoto(file, { server: "http://127.0.0.1:8000", userId: "device-1" });
  console.log(answer.data.category, answer.photo.uploaded ? "uploaded" : "cache hit");
});
