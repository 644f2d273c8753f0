/** Convoy's page. Each panel is on its own; what they share is in the modules beside this one. */

import { startPage } from "./drop";
import { byId } from "./dom";
import { language, onLanguage, setLanguage, startLanguage } from "./i18n";
import { startModels } from "./models";
import { startSound } from "./sound/panel";
import { startTabs } from "./tabs";
import { startText } from "./text/panel";
import { startTheme } from "./theme";
import { startVolume } from "./volume/panel";

startLanguage();
startTheme();
startPage();
startText();
startSound();
startVolume();
startTabs();
startModels();
const other = (): void => void (byId("language").lang = language() === "en" ? "zh-Hans" : "en");
other();
onLanguage(other);
byId("language").addEventListener("click", () => setLanguage(language() === "en" ? "zh" : "en"));
