/** The texts that all pages have. */
export const pageTexts = {
  en: {
    pages: "Pages",
    dashboard: "Dashboard",
    review: "Review",
    demo: "Demo",
    docs: "API",
    theme: "Light or dark",
  },
  zh: {
    pages: "页面",
    dashboard: "仪表盘",
    review: "审核",
    demo: "演示",
    docs: "接口",
    theme: "浅色或深色",
  },
};
