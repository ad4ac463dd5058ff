// Keeps what the page shows fresh: fetches the page again and puts its content in place. Without
// scripts the page refreshes itself as a whole.
"use strict";
const every = 3000;

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, {headers: {"Accept": "text/html"}, redirect: "manual"});
      if (answer.type === "opaqueredirect" || answer.status === 401) {
        location.reload(); // the session has ended
        return;
      }
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      const main = document.querySelector("main");
      if (answer.ok && next && next.innerHTML !== main.innerHTML && getSelection().isCollapsed) {
        main.replaceWith(document.adoptNode(next));
      }
      document.body.classList.toggle("stale", !answer.ok);
    } catch {
      document.body.classList.add("stale");
    }
  }
  setTimeout(refresh, every);
}
setTimeout(refresh, every);
