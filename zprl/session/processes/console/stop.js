// The e-stop of both pages: it is sent again until the server has taken it.

const STOP_RETRY_MS = 300;

/** One per press.  Not `randomUUID`, which browsers lack where the page comes from another machine without TLS. */
export const nonce = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Post a press; returns the server's answer. */
export const send = (body, timeout) => fetch("/input", {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive: true,
  signal: AbortSignal.timeout(timeout),
});

/** Press the e-stop until it is taken; all tries carry one nonce.  `onTry` gets the number of each try. */
export async function sendStop(onTry) {
  const body = { kind: "estop", episode: null, nonce: nonce() };
  for (let tries = 1; ; tries++) {
    onTry(tries);
    try {
      if ((await send(body, 1500)).ok) return;
    } catch { /* try again */ }
    await new Promise((resolve) => setTimeout(resolve, STOP_RETRY_MS));
  }
}

/** Press the e-stop when its button is touched, or by Enter. */
export function bindStop(button, estop) {
  button.addEventListener("pointerdown", estop); // at the touch, not when the finger leaves
  button.addEventListener("click", (event) => event.detail === 0 && estop()); // by Enter
}
