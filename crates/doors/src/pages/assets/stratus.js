// Everything works without this file; with it, searches follow the typing, and texts are copied by a button.
"use strict";

// What only works with scripts is shown only with them.
document.documentElement.classList.add("scripted");

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// <form data-live="results">: the element of that id is fetched anew whenever the form changes.
for (const form of document.querySelectorAll("form[data-live]")) {
  let timer = 0;
  let running = null;
  const refresh = async () => {
    const filled = [...new FormData(form)].filter(([, value]) => value !== "");
    const query = new URLSearchParams(filled).toString();
    const url = form.action.split("?")[0] + (query ? "?" + query : "");
    running?.abort();
    running = new AbortController();
    const target = document.getElementById(form.dataset.live);
    target.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(url, { headers: { Accept: "text/html" }, signal: running.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(form.dataset.live);
      if (fresh) target.replaceChildren(...fresh.childNodes);
      history.replaceState(null, "", url);
      target.removeAttribute("aria-busy");
    } catch (error) {
      // Overtaken by what was typed since: that one shows its results. Else the button still sends the form.
      if (error.name !== "AbortError") target.removeAttribute("aria-busy");
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(refresh, 200);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    refresh();
  });
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}
