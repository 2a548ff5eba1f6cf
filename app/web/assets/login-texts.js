/** The texts of the page that a browser shows without a key. */

import { pageTexts } from "./page-texts.js";

export const texts = {
  en: {
    ...pageTexts.en,
    title: "Image Classifier · log in",
    heading: "This page needs an API key",
    explanation: "Any user name will do. The password is an API key that may see this page: of the scope stats for the dashboard, of the scope admin for the review.",
    again: "Log in",
    home: "To the start",
  },
  zh: {
    ...pageTexts.zh,
    title: "图片分类服务 · 登录",
    heading: "查看本页需要 API 密钥",
    explanation: "用户名任意，密码填有权查看本页的 API 密钥：仪表盘需要 stats 权限，审核需要 admin 权限。",
    again: "登录",
    home: "返回首页",
  },
};
