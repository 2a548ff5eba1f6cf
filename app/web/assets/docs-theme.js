// Light or dark on /docs: the choice made on another page, else the system's. The class is that of Swagger UI.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is blocked: the system decides.
  }

  function apply() {
    const isDark = chosen === "light" || chosen === "dark" ? chosen === "dark" : dark.matches;
    document.documentElement.classList.toggle("dark-mode", isDark);
  }
  dark.addEventListener("change", apply);
  apply();
})();
