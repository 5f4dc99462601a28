import starlight from "@astrojs/starlight";
import { defineConfig } from "astro/config";
import { deliver } from "./integrations/deliver.ts";

/** Where the site would be found by search engines; it is served from wherever the server is. */
const site = process.env.CAKEWORK_SITE ?? "http://localhost:8081";

export default defineConfig({
  site,
  trailingSlash: "ignore",
  telemetry: false,
  integrations: [
    starlight({
      title: "Cakework",
      logo: { src: "./src/assets/logo.svg", alt: "" },
      favicon: "/favicon.svg",
      customCss: ["./src/styles/theme.css"],
      credits: false,
      pagination: true,
      tableOfContents: { minHeadingLevel: 2, maxHeadingLevel: 3 },
      components: {
        PageTitle: "./src/components/PageTitle.astro",
      },
      sidebar: [
        { label: "Getting Started", slug: "docs" },
        {
          label: "Functions",
          items: [
            { label: "Functions", slug: "docs/functions" },
            { label: "Handlers", slug: "docs/functions/handlers" },
            { label: "Invocations and retries", slug: "docs/functions/invocations" },
            { label: "URLs", slug: "docs/functions/urls" },
            { label: "Secrets", slug: "docs/functions/secrets" },
          ],
        },
        {
          label: "Automations",
          items: [
            { label: "Triggers", slug: "docs/automations" },
            { label: "Schedules", slug: "docs/automations/schedules" },
            { label: "Events", slug: "docs/automations/events" },
            { label: "Webhooks in", slug: "docs/automations/webhooks-in" },
            { label: "Flow control", slug: "docs/automations/flow-control" },
            { label: "Transforms", slug: "docs/automations/transforms" },
          ],
        },
        {
          label: "Reference",
          items: [
            { label: "REST", slug: "docs/reference/rest" },
            { label: "Typescript", slug: "docs/reference/typescript" },
            { label: "Python", slug: "docs/reference/python" },
            { label: "Base images", slug: "docs/reference/base-images" },
            { label: "CLI", slug: "docs/reference/cli" },
            { label: "Webhooks", slug: "docs/webhooks" },
            { label: "Errors", slug: "docs/reference/errors" },
            { label: "Settings", slug: "docs/reference/settings" },
          ],
        },
        {
          label: "Guides",
          items: [
            { label: "Operating it", slug: "docs/operating" },
            { label: "Security", slug: "docs/reference/security" },
            { label: "How it works", slug: "docs/how-it-works" },
          ],
        },
      ],
    }),
    deliver(),
  ],
});
