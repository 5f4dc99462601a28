/** Sends the waitlist's forms without leaving the page; without scripts the browser sends them itself. */

for (const form of document.querySelectorAll<HTMLFormElement>("[data-waitlist]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void join(form);
  });
}

async function join(form: HTMLFormElement): Promise<void> {
  const said = form.querySelector<HTMLElement>("[data-said]");
  const button = form.querySelector("button");
  if (!said || !button) return;
  button.disabled = true;
  said.textContent = await answerTo(form);
  button.disabled = false;
}

async function answerTo(form: HTMLFormElement): Promise<string> {
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { accept: "application/json" },
      body: new URLSearchParams({ email: String(new FormData(form).get("email")) }),
    });
    if (answer.ok) {
      form.reset();
      return "Thank you. We will write to you.";
    }
    const problem: { detail?: string } = await answer.json();
    return problem.detail ?? "That did not work. Please try again.";
  } catch {
    return "We could not be reached. Please try again.";
  }
}
