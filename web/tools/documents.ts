/** Documents of the repository as pages: their title goes into the front matter, links to the site. */

/** Where a document of the repository is found on the site. */
const PAGES: Record<string, string> = {
  "base-images.md": "/docs/reference/base-images/",
  "cli.md": "/docs/reference/cli/",
  "function-urls.md": "/docs/functions/urls/",
  "functions.md": "/docs/functions/",
  "handlers.md": "/docs/functions/handlers/",
  "invocations.md": "/docs/functions/invocations/",
  "secrets.md": "/docs/functions/secrets/",
  "triggers.md": "/docs/automations/",
  "schedules.md": "/docs/automations/schedules/",
  "events.md": "/docs/automations/events/",
  "webhooks-in.md": "/docs/automations/webhooks-in/",
  "flow-control.md": "/docs/automations/flow-control/",
  "transforms.md": "/docs/automations/transforms/",
  "errors.md": "/docs/reference/errors/",
  "settings.md": "/docs/reference/settings/",
  "webhooks.md": "/docs/webhooks/",
  "SECURITY.md": "/docs/reference/security/",
};

/** Returns `document` as a page. Links to documents that are no pages become plain text. */
export function fromDocument(document: string, title: string, description: string): string {
  const body = document.replace(/^# .*\n/, "").replace(/\[([^\]]+)\]\(([^)\s]+)\)/g, relinked);
  return `${frontMatter(title, description)}${body}`;
}

/** Returns what a page begins with. */
export function frontMatter(title: string, description: string): string {
  return `---\ntitle: ${JSON.stringify(title)}\ndescription: ${JSON.stringify(description)}\n---\n`;
}

function relinked(whole: string, text: string, target: string): string {
  if (/^(https?:|#|mailto:)/.test(target)) return whole;
  const [path = "", anchor] = target.split("#");
  const page = PAGES[path.split("/").at(-1) ?? ""];
  if (!page) return text;
  return `[${text}](${page}${anchor ? `#${anchor}` : ""})`;
}
