/* What every page has: its errors in data-errors, colours of the theme, packed arrays. */
"use strict";
const Page = (() => {
  const root = document.documentElement;
  const errors = [];
  const note = (text) => { errors.push(String(text)); root.dataset.errors = errors.join(" | "); };
  root.dataset.errors = "";
  window.addEventListener("error", (event) => note(event.message));
  document.addEventListener("securitypolicyviolation", (event) => note(`refused ${event.blockedURI}`));
  window.addEventListener("unhandledrejection", (event) => note(event.reason));

  const css = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  async function inflate(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  /* A page that is served looks for a newer one, and opens it where the reader is. */
  const place = "virtgym-place";
  async function follow(known) {
    const stamp = await fetch("stamp").then((answer) => answer.text()).catch(() => known);
    if (known !== null && stamp !== known) {
      sessionStorage.setItem(place, String(window.scrollY));
      location.reload();
    } else setTimeout(() => follow(stamp), 3000);
  }
  if ("live" in root.dataset) follow(null);

  function ready() {
    const y = "live" in root.dataset && sessionStorage.getItem(place);
    if (y) { window.scrollTo(0, Number(y)); sessionStorage.removeItem(place); }
    Object.assign(root.dataset, { scrollWidth: root.scrollWidth, viewport: window.innerWidth, ready: 1 });
  }

  return { root, note, css, inflate, ready };
})();
