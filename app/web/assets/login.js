/** The page that a browser shows without a key, in the reader's language. */

import { createI18n } from "./i18n.js";
import { texts } from "./login-texts.js";

createI18n(texts);
