// Without this script every page is whole: a list needs its button, and nothing renews itself.
const page = () => document.getElementById("page");

for (const button of document.querySelectorAll(".choices button")) button.hidden = true;
document.addEventListener("change", event => {
  if (event.target.form) event.target.form.requestSubmit();
});

async function renew() {
  const seconds = parseFloat(page().dataset.live);
  if (!seconds) return;
  await new Promise(done => setTimeout(done, 1000 * seconds));
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href);
      const text = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = text.getElementById("page");
      const open = [...page().querySelectorAll("details")].map(one => one.open);
      fresh.querySelectorAll("details").forEach((one, k) => { one.open = open[k] ?? false; });
      if (answer.ok && fresh.innerHTML !== page().innerHTML) page().replaceWith(fresh);
    } catch { /* the server has stopped: what is shown stays */ }
  }
  renew();
}
renew();
