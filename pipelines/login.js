// The ticket stands behind the #, which browsers send to nobody: it is in no log and in no Referer.
const ticket = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

const answer = await fetch("/zprl/login", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ ticket }),
});
if (answer.ok) {
  const { storage } = await answer.json();
  for (const [key, value] of Object.entries(storage)) localStorage.setItem(key, value);
  location.replace("/");
} else {
  document.getElementById("text").textContent =
    "This link was used already, or it is too old. Run `zprl ui --link` in the project's folder: it prints a new one.";
}
