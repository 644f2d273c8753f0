// Runs before anything is drawn, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("convoy.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset["theme"] = theme;
} catch {
  // storage is closed to us: the system's theme it is
}
