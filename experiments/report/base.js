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

  function ready() {
    Object.assign(root.dataset, { scrollWidth: root.scrollWidth, viewport: window.innerWidth, ready: 1 });
  }

  return { root, note, css, inflate, ready };
})();
