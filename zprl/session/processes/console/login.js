// The locked page: a one-time link logs in by itself, and the e-stop works without a login.

import { bindStop, sendStop } from "/stop.js";

const form = document.getElementById("login");
const said = document.getElementById("said");
const button = document.getElementById("estop");
let stopping = false;

async function estop() {
  if (stopping) return;
  stopping = true;
  button.classList.add("sending");
  await sendStop((tries) => {
    said.classList.toggle("bad", tries > 1);
    said.textContent = tries === 1 ? "Sending" : "The e-stop does not get through. Use the robot's own stop.";
  });
  stopping = false;
  button.classList.remove("sending");
  said.classList.remove("bad");
  said.textContent = "E-stop sent. Look at the arm, then log in.";
}

bindStop(button, estop);
addEventListener("keydown", (event) => event.key === "Escape" && !event.repeat && estop());

if (location.hash.length > 1) {
  form.elements.ticket.value = location.hash.slice(1);
  history.replaceState(null, "", "/login"); // it works once, and need not stay in the history
  form.submit();
}
