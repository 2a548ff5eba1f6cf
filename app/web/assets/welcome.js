/** The welcome page: it says what this is and where to go, in the reader's language. */

import { createI18n } from "./i18n.js";
import { texts } from "./welcome-texts.js";

createI18n(texts);
