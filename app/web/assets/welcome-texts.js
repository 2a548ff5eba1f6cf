/** The texts of the welcome page. */

import { pageTexts } from "./page-texts.js";

export const texts = {
  en: {
    ...pageTexts.en,
    title: "Image Classifier",
    heading: "Which of eight kinds is this photo?",
    introduction: "This service sorts phone photos into eight categories with a vision model. It remembers each answer under the photo's SHA-256, so the same photo is never paid for twice.",
    tryPhoto: "Try a photo",
    tryPhotoNote: "Choose one in this browser, and see each step of the client.",
    dashboardNote: "Requests, cache hits, money saved and spent, live.",
    tryApi: "Try the API",
    tryApiNote: "Each request with a form to send it by.",
    reference: "Documentation of the API",
    referenceNote: "All of it to read and to search. Guides are in the folder docs of the source code.",
  },
  zh: {
    ...pageTexts.zh,
    title: "图片分类服务",
    heading: "这张照片属于八类中的哪一类？",
    introduction: "本服务用视觉模型把手机照片分成八类，并按照片的 SHA-256 记住每个结果，同一张照片只付一次费。",
    tryPhoto: "试一张照片",
    tryPhotoNote: "在浏览器里选一张，查看客户端的每一步。",
    dashboardNote: "实时查看请求、缓存命中、节省与花费。",
    tryApi: "调试接口",
    tryApiNote: "每个接口都可以填表并发送。",
    reference: "接口文档",
    referenceNote: "全部接口，可阅读、可搜索。使用指南在源代码的 docs 目录中。",
  },
};
