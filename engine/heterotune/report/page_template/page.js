"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("heterotune-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("heterotune-theme", theme); } catch { /* a closed store: the choice lasts as long as the page */ } };
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const show = () => button.setAttribute("aria-pressed", String(theme() === "dark"));
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const mark = (name) => links.forEach((link, key) => key === name ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  const watch = new IntersectionObserver((seen) => seen.forEach((entry) => { if (entry.isIntersecting) mark(entry.target.id); }), { rootMargin: "0px 0px -75% 0px" });
  document.querySelectorAll("main section").forEach((section) => watch.observe(section));

  const reach = () => document.querySelectorAll(".scroll").forEach((part) => {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) {
      part.tabIndex = 0;
      part.setAttribute("role", "region");
      part.setAttribute("aria-label", "Scrolls");
    } else part.removeAttribute("tabindex");
  });
  window.addEventListener("resize", reach);
  reach();

  const STRONGEST = 0.72;
  const move = (id, value, frames) => {
    const cell = document.querySelector(`[id="${id}"] path`);
    const words = document.querySelector(`[id="${id}-text"] text`);
    if (cell) {
      cell.style.fill = value !== null && value < 0 ? frames.negative : frames.positive;
      cell.style.opacity = value === null ? 0 : STRONGEST * Math.min(1, Math.abs(value) / frames.scale);
    }
    if (words) words.textContent = value === null ? "·" : (value < 0 ? "-" : "+") + Math.abs(value).toFixed(2);
  };
  document.querySelectorAll(".frames").forEach((form) => {
    const frames = JSON.parse(form.dataset.frames);
    const [slider, group, told] = ["input", "select", "output"].map((name) => form.querySelector(name));
    const update = () => {
      told.textContent = frames.labels[slider.value];
      slider.setAttribute("aria-valuetext", told.textContent);
      Object.entries(frames.groups[group.value]).forEach(([stage, values]) =>
        frames.pairs.forEach(([i, j], place) => [[i, j], [j, i]].forEach(([a, b]) =>
          move(`${form.dataset.plot}-cell-${stage}-${a}-${b}`, values[slider.value][place], frames))));
    };
    form.hidden = false;
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
  });
})();
