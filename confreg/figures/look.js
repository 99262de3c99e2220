// Light or dark, and the size of the text: as the system says until a button says otherwise; remembered only while the page is open.

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const darkRules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
  .filter((rule) => rule.media && rule.media.mediaText.includes("prefers-color-scheme: dark"));
let isDark = systemIsDark.matches;

function wearLook(redraw) {
  for (const rule of darkRules) rule.media.mediaText = isDark ? "all" : "not all";
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  const theme = document.getElementById("theme"), text = document.getElementById("text-size");
  theme.textContent = isDark ? "Light colours" : "Dark colours";
  text.textContent = document.documentElement.dataset.text === "large" ? "Usual text" : "Larger text";
  readLook();
  redraw();
}

function offerLooks(redraw, redrawNow = redraw) {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => { isDark = !isDark; wearLook(redraw); });
  document.getElementById("text-size").addEventListener("click", () => { root.dataset.text = root.dataset.text === "large" ? "usual" : "large"; wearLook(redraw); });
  systemIsDark.addEventListener("change", () => { isDark = systemIsDark.matches; wearLook(redraw); });
  // The size of the text follows the width of the window; the figures follow its width by themselves.
  let pause = null;
  addEventListener("resize", () => {
    clearTimeout(pause);
    pause = setTimeout(() => {
      const size = FONT.size;
      readLook();
      if (FONT.size !== size) redraw();
    }, 150);
  });
  let wasDark = false; // paper is light
  addEventListener("beforeprint", () => { wasDark = isDark; isDark = false; wearLook(redrawNow); });
  addEventListener("afterprint", () => { isDark = wasDark; wearLook(redraw); });
  wearLook(redraw);
}
