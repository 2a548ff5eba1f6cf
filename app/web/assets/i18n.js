/**
 * The language of a page: the reader's choice, else the browser's, else English.
 *
 * In HTML, data-i18n="key" stands for an element's text, and data-i18n-attributes="aria-label:key title:key" for
 * attributes. A button with data-language-switch changes to the other language.
 *
 * @example
 * const i18n = createI18n({ en: { hits: "{count} {count?hit|hits}" }, zh: { hits: "命中 {count} 次" } });
 * i18n.onChange(render);                                     // called now, and at each change
 * i18n.t("hits", { count: i18n.number(1234) });              // "1,234 hits"
 *
 * @module
 */

/** @typedef {"en" | "zh"} Language */

const NAMES = { en: "English", zh: "中文" };
const DEFAULT_LOCALES = { en: "en", zh: "zh-CN" };
const STORAGE_KEY = "language";

/** @returns {Language} */
function detectLanguage() {
  try {
    const chosen = localStorage.getItem(STORAGE_KEY);
    if (chosen in NAMES) return chosen;
  } catch {
    // Storage is blocked: the browser's languages decide.
  }
  const spoken = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]);
  return spoken.find((language) => language in NAMES) ?? "en";
}

/**
 * Translates the page, and returns the functions that its code formats texts, numbers and times with.
 *
 * @param {Record<Language, Record<string, string>>} texts  key -> text, in which {name} stands for a value
 */
export function createI18n(texts) {
  let language = detectLanguage();
  /** @type {Array<() => void>} */
  const listeners = [];

  /**
   * The text of `key`; an unknown key is a bug of the page, and throws.
   *
   * {name?one|many} is `one` where the value reads "1", else `many`: "{count} {count?hit|hits}".
   */
  function t(key, values = {}) {
    const text = texts[language][key];
    if (text === undefined) throw new Error(`no text for ${key} in ${language}`);
    return text.replace(/\{(\w+)(?:\?([^|}]*)\|([^}]*))?\}/g, (_, name, one, many) => {
      const value = String(values[name]);
      return one === undefined ? value : value === "1" ? one : many;
    });
  }

  /** The locale for numbers and dates: the browser's own kind of the language, such as en-GB. */
  function locale() {
    return navigator.languages.find((tag) => tag.toLowerCase().split("-")[0] === language) ?? DEFAULT_LOCALES[language];
  }

  /** Translates the elements under `root` that carry data-i18n or data-i18n-attributes. */
  function translate(root = document) {
    for (const element of root.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
    for (const element of root.querySelectorAll("[data-i18n-attributes]")) {
      for (const pair of element.dataset.i18nAttributes.split(" ")) {
        const [attribute, key] = pair.split(":");
        element.setAttribute(attribute, t(key));
      }
    }
  }

  function apply() {
    const other = language === "en" ? "zh" : "en";
    document.documentElement.lang = DEFAULT_LOCALES[language];
    for (const button of document.querySelectorAll("[data-language-switch]")) {
      button.textContent = NAMES[other];
      button.lang = DEFAULT_LOCALES[other];
    }
    translate();
    for (const listener of listeners) listener();
  }

  /** @param {Language} chosen */
  function setLanguage(chosen) {
    language = chosen;
    try {
      localStorage.setItem(STORAGE_KEY, chosen);
    } catch {
      // Storage is blocked: the choice lasts as long as the page.
    }
    apply();
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-language-switch]")) setLanguage(language === "en" ? "zh" : "en");
  });
  apply();

  return {
    t,
    translate,
    setLanguage,
    locale,
    /** The language in use. */
    get language() {
      return language;
    },
    /** A number as the reader writes it; `options` are those of Intl.NumberFormat. */
    number(value, options = {}) {
      return new Intl.NumberFormat(locale(), options).format(value);
    },
    /** A time as the reader writes it; `options` are those of Intl.DateTimeFormat. */
    time(date, options = { timeStyle: "medium" }) {
      return new Intl.DateTimeFormat(locale(), options).format(date);
    },
    /** Calls `listener` now and after each change of the language. */
    onChange(listener) {
      listeners.push(listener);
      listener();
    },
  };
}
