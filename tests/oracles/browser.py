"""Opens a page in a real browser, in a frame of some width, uses it, and tells what it says of itself."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0", "--dump-dom"),
)

HARNESS = """<!DOCTYPE html><title>harness</title><body style="margin:0">
<iframe id="page" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
"use strict";
const root = document.documentElement;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const use = (inner) => {{
  for (const button of inner.querySelectorAll(".group:not([hidden]) .png, [data-export]")) button.click();
  for (const button of inner.querySelectorAll(".group:not([hidden]) thead button")) button.click();
  for (const button of inner.querySelectorAll(".group:not([hidden]) [data-show]")) button.click();
  for (const box of inner.querySelectorAll(".group:not([hidden]) input[type=checkbox]")) box.click();
  for (const choice of inner.querySelectorAll("select")) {{
    choice.selectedIndex = choice.options.length - 1;
    choice.dispatchEvent(new Event("change"));
  }}
  for (const button of inner.querySelectorAll(".player button")) button.click();
}};
/* What a reader who does not see, or uses no mouse, would stumble over. */
const hurdles = (inner) => {{
  const seen = (element) => element.offsetParent !== null;
  const say = (element) => element.outerHTML.slice(0, 120);
  const found = [];
  const named = (e) => e.ariaLabel || (e.matches("select, input") ? e.labels.length : e.textContent.trim());
  if (!inner.lang || !inner.querySelector("title").textContent) found.push("no language, or no title");
  if (inner.querySelectorAll("main").length !== 1) found.push("not one main part");
  for (const e of inner.querySelectorAll("button, select, input, a")) {{
    if (seen(e) && !named(e)) found.push(say(e));
  }}
  for (const e of inner.querySelectorAll("[role=img] button, [role=img] a, [role=img] [tabindex]")) {{
    found.push(`in a picture: ${{say(e)}}`);
  }}
  for (const e of inner.querySelectorAll(".plot, [role=img], [role=region], svg[role], canvas")) {{
    if (seen(e) && !e.ariaLabel && !e.closest("[aria-label]")) found.push(say(e));
  }}
  for (const e of inner.querySelectorAll("th")) {{
    if (seen(e) && (!e.textContent.trim() || !e.scope)) found.push(`heading of ${{say(e.parentElement)}}`);
  }}
  for (const e of inner.querySelectorAll("main *")) {{
    const {{ overflowX, overflowY }} = getComputedStyle(e);
    const scrolls = (/auto|scroll/.test(overflowX) && e.scrollWidth > e.clientWidth + 1)
      || (/auto|scroll/.test(overflowY) && e.scrollHeight > e.clientHeight + 1);
    if (scrolls && seen(e) && e.tabIndex < 0 && !e.querySelector("a, button, [tabindex]")) found.push(say(e));
  }}
  for (const e of inner.querySelectorAll(".plot .ytick text, .plot .xtick text")) {{
    const [here, whole] = [e, e.closest(".plot")].map((one) => one.getBoundingClientRect());
    if (here.left < whole.left - 1 || here.right > whole.right + 1) found.push(`cut: ${{e.textContent}}`);
  }}
  let level = 0;
  for (const e of inner.querySelectorAll("h1, h2, h3, h4, h5, h6")) {{
    const here = Number(e.tagName[1]);
    if (seen(e) && here > level + 1) found.push(`${{e.tagName}} after H${{level}}: ${{e.textContent}}`);
    level = seen(e) ? here : level;
  }}
  const ids = [...inner.querySelectorAll("[id]")].filter((e) => !e.closest("svg")).map((e) => e.id);
  if (new Set(ids).size < ids.length) found.push("an id twice");
  return found;
}};
(async () => {{
  let inner = null;
  for (let i = 0; i < 100 && !(inner && inner.dataset.ready); i += 1) {{
    await wait(100);
    inner = document.getElementById("page").contentDocument.documentElement;
  }}
  const hurdle = hurdles(inner);
  Object.assign(root.dataset, {{ before: JSON.stringify({{ ...inner.dataset, hurdles: hurdle }}) }});
  use(inner);
  await wait(3000);
  const order = [...inner.querySelectorAll(".group:not([hidden]) tbody .name")].map((n) => n.textContent);
  const heat = [...inner.querySelectorAll(".group:not([hidden]) .heat-note")].map((n) => n.textContent);
  root.dataset.after = JSON.stringify({{ ...inner.dataset, wide: inner.scrollWidth, order, heat,
    offers: inner.querySelectorAll(".offer").length,
    drawn: inner.querySelectorAll(".group:not([hidden]) .js-plotly-plot").length }});
}})();
</script>"""


def find_browser() -> str:
    """A Chromium; without one the test is skipped."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser on the machine: none of {', '.join(BROWSERS)} is in PATH")
    return found


def open_page(page: Path, width: int, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Use the page in a frame of some width; what it says of itself before and after, and the console."""
    browser = find_browser()
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.format(page=page.as_uri(), width=width), encoding="utf-8")
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={max(width, 600)},1000",
    ]
    done = subprocess.run([*command, harness.as_uri()], capture_output=True, text=True, check=True)
    said = []
    for name in ("before", "after"):
        found = re.search(rf'data-{name}="([^"]*)"', done.stdout)
        assert found is not None, f"the page never got ready; the browser said: {done.stderr[-2000:]}"
        said.append(json.loads(html.unescape(found.group(1))))
    return said[0], said[1], done.stderr
