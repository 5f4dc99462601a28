/** The REST reference: one page made from the OpenAPI document and from examples that tests run. */
import { examplesOf } from "./examples.ts";
import { frontMatter } from "./documents.ts";

type Json = Record<string, any>;

/** Headings of the page and the calls below them, in order. */
export const ORDER: Record<string, string[]> = {
  Images: [
    "importImage",
    "buildImageFromFiles",
    "buildImageFromGithub",
    "getBuild",
    "getBuildLogs",
    "listBuilds",
    "cancelBuild",
    "listImages",
    "getImage",
    "deleteImage",
  ],
  VMs: ["startVM", "stopVM", "getVMLogs", "getVm", "listVMs"],
  "Cached VMs": [
    "cacheVM",
    "startCachedVM",
    "stopCachedVM",
    "destroyCachedVM",
    "forkCachedVM",
    "getCachedVMLogs",
  ],
  Functions: [
    "createFunction",
    "listFunctions",
    "getFunction",
    "updateFunction",
    "deployFunction",
    "listVersions",
    "getVersion",
    "getVersionSource",
    "promoteVersion",
    "putDraft",
    "getDraft",
    "testFunction",
    "deleteDraft",
    "getFunctionLogs",
    "deleteFunction",
    "deployFunctionFromArchive",
    "getFunctionBuildLogs",
  ],
  Invocations: [
    "invokeFunction",
    "listInvocations",
    "getInvocation",
    "getInvocationEvent",
    "getInvocationResult",
    "getInvocationLogs",
    "cancelInvocation",
    "replayInvocation",
    "listDeadLetters",
    "replayDeadLetters",
    "discardDeadLetters",
  ],
  Triggers: [
    "createTrigger",
    "listTriggers",
    "getTrigger",
    "updateTrigger",
    "runTrigger",
    "rotateTriggerSecret",
    "deleteTrigger",
    "previewSchedule",
  ],
  Events: ["emitEvents", "listEvents", "getEvent", "testFilter"],
  Transforms: ["applyTransform"],
  Secrets: ["putSecret", "listSecrets", "deleteSecret"],
  Webhooks: [
    "createWebhook",
    "listWebhooks",
    "getWebhook",
    "updateWebhook",
    "rotateWebhookSecret",
    "testWebhook",
    "listWebhookDeliveries",
    "redeliverWebhook",
    "deleteWebhook",
  ],
  Health: ["healthz", "readyz"],
};

/** Other spellings of a call, which are shown with it. */
export const SPELLINGS: Record<string, string> = {
  getBuildByPost: "getBuild",
  listVMsUnversioned: "listVMs",
  destroyVM: "destroyCachedVM",
};

/** Calls whose heading is not their id. */
const HEADINGS: Record<string, string> = { getFunctionBuildLogs: "getBuildLogs (function)" };
const LANGUAGES: Record<string, string> = { sh: "curl", ts: "TypeScript", py: "Python" };

const INTRODUCTION = `
Every call is JSON over HTTP, below the address of your server: \`http://127.0.0.1:8081\` unless you
moved it. Each carries its key in \`X-Api-Key\`. Field names are camelCase; times are RFC 3339 in UTC
with milliseconds. What went wrong is told as \`application/problem+json\`, with a \`code\` that never
changes: see [errors](/docs/reference/errors/). Every answer has an \`X-Request-Id\`; name it when you
ask about one. A POST may carry an \`Idempotency-Key\` (up to 255 characters): the same key with the
same request does its work once, and is answered alike for 24 hours.

The examples go on from each other: \`$API\` is the server's address, \`$KEY\` an API key; \`client\` is
a client of the SDK.
`;

interface Call {
  id: string;
  method: string;
  path: string;
  operation: Json;
}

/** Returns the page. Throws when a call of the document has no place on it. */
export function restReference(openapi: Json, examples: string): string {
  const calls = callsOf(openapi);
  const shown = examplesOf(examples);
  const placed = new Set([...Object.values(ORDER).flat(), ...Object.keys(SPELLINGS)]);
  for (const id of calls.keys()) {
    if (!placed.has(id)) throw new Error(`tools/reference.ts: where on the page is ${id}?`);
  }
  const parts = [frontMatter("REST", "Every call of the API, field by field."), INTRODUCTION];
  for (const [heading, ids] of Object.entries(ORDER)) {
    const there = ids.flatMap((id) => calls.get(id) ?? []);
    if (there.length) parts.push(`## ${heading}\n`);
    for (const call of there) {
      const others = [...calls.values()].filter((other) => SPELLINGS[other.id] === call.id);
      parts.push(section(openapi, call, others, shown.get(call.id) ?? {}));
    }
  }
  return parts.join("\n");
}

function callsOf(openapi: Json): Map<string, Call> {
  const calls = new Map<string, Call>();
  for (const [path, methods] of Object.entries<Json>(openapi.paths)) {
    for (const [method, operation] of Object.entries<Json>(methods)) {
      const id = operation.operationId;
      calls.set(id, { id, method: method.toUpperCase(), path, operation });
    }
  }
  return calls;
}

function section(openapi: Json, call: Call, others: Call[], examples: Record<string, string>) {
  const { operation } = call;
  const description = operation.description && operation.description !== operation.summary;
  const query = (operation.parameters ?? []).filter((each: Json) => each.in === "query");
  const path = (operation.parameters ?? []).filter((each: Json) => each.in === "path");
  const headers = (operation.parameters ?? []).filter(
    (each: Json) => each.in === "header" && each.name !== "Idempotency-Key",
  );
  const body = operation.requestBody?.content["application/json"]?.schema;
  const form = operation.requestBody?.content["multipart/form-data"]?.schema;
  return [
    `### ${HEADINGS[call.id] ?? call.id}\n`,
    `${operation.summary}.${description ? ` ${operation.description}` : ""}\n`,
    `**Endpoint**\n`,
    ["```http", ...[call, ...others].map((each) => `${each.method} ${each.path}`), "```\n"].join("\n"),
    path.length ? `**Path**\n\n${parameters(openapi, path)}` : "",
    query.length ? `**URL query parameters**\n\n${parameters(openapi, query)}` : "",
    headers.length ? `**Headers**\n\n${parameters(openapi, headers)}` : "",
    body ? `**Request**\n\n${fields(openapi, body)}` : "",
    form ? `**Request as a form** (\`multipart/form-data\`)\n\n${formFields(openapi, form, body)}` : "",
    `**Response**\n\n${answer(openapi, operation)}`,
    `**Errors** ${errors(operation)}\n`,
    ...Object.entries(examples).map(
      ([language, code]) =>
        `\`\`\`${language} title="${LANGUAGES[language] ?? language}"\n${code.trim()}\n\`\`\`\n`,
    ),
  ]
    .filter(Boolean)
    .join("\n");
}

function parameters(openapi: Json, listed: Json[]): string {
  return table(
    listed.map((each) => [
      each.name,
      typeName(openapi, each.schema),
      each.required,
      each.description ?? each.schema.description ?? "",
    ]),
  );
}

function answer(openapi: Json, operation: Json): string {
  const success = Object.entries<Json>(operation.responses).find(([status]) => status < "300");
  const content = success?.[1].content;
  if (!content) return "An empty answer.\n";
  const schema = content["application/json"]?.schema;
  return schema ? fields(openapi, schema) : "Bytes, with their own content type.\n";
}

/** Fields of a form, which are those of the JSON of the same call where they are not told. */
function formFields(openapi: Json, form: Json, body: Json): string {
  const told = resolved(openapi, body).properties;
  const properties = Object.entries<Json>(form.properties).map(([name, declared]) => [
    name,
    declared.description ? declared : { ...declared, description: told[name].description },
  ]);
  return fields(openapi, { ...form, properties: Object.fromEntries(properties) });
}

function errors(operation: Json): string {
  const statuses = Object.keys(operation.responses).filter((status) => status >= "400");
  const links = statuses.map((status) => `\`${status}\``).join(" ");
  return `${links || "none"}: see [errors](/docs/reference/errors/).`;
}

type Row = [name: string, type: string, required: boolean, description: string];

function fields(openapi: Json, schema: Json): string {
  const rows = [...rowsOf(openapi, withoutNull(openapi, schema), "")];
  return rows.length ? table(rows) : "An empty object.\n";
}

function* rowsOf(openapi: Json, schema: Json, prefix: string): Generator<Row> {
  for (const [name, declared] of Object.entries<Json>(schema.properties ?? {})) {
    const field = withoutNull(openapi, declared);
    const required = (schema.required ?? []).includes(name);
    const description = declared.description ?? field.description ?? "";
    yield [`${prefix}${name}`, typeName(openapi, field), required, description];
    const inner = field.type === "array" ? resolved(openapi, field.items) : field;
    const below = field.type === "array" ? `${prefix}${name}[].` : `${prefix}${name}.`;
    for (const variant of inner.oneOf ?? inner.anyOf ?? [inner]) {
      yield* rowsOf(openapi, resolved(openapi, variant), below);
    }
  }
}

function table(rows: Row[]): string {
  const lines = rows.map(([name, type, required, description]) => {
    const told = description.replaceAll("|", "\\|").replaceAll("\n", " ");
    return `| \`${name}\` | ${type}${required ? "" : ", optional"} | ${told} |`;
  });
  return ["| Name | Type | Description |", "|---|---|---|", ...lines, ""].join("\n");
}

function typeName(openapi: Json, declared: Json): string {
  const schema = withoutNull(openapi, declared);
  if (schema.enum) return schema.enum.map((each: unknown) => `\`${each}\``).join(" or ");
  if (schema.const !== undefined) return `\`${schema.const}\``;
  if (schema.type === "array") return `list of ${typeName(openapi, schema.items)}`;
  if (schema.oneOf ?? schema.anyOf) {
    const names = (schema.oneOf ?? schema.anyOf).map((each: Json) => typeName(openapi, each));
    return [...new Set(names)].join(" or ");
  }
  if (schema.format === "binary") return "file";
  return `${schema.type ?? "object"}${range(schema)}`;
}

function range({ minimum, maximum }: Json): string {
  if (minimum !== undefined && maximum !== undefined) return ` ${minimum}–${maximum}`;
  return minimum === undefined ? "" : ` from ${minimum}`;
}

function withoutNull(openapi: Json, declared: Json): Json {
  const schema = resolved(openapi, declared);
  const kinds = schema.anyOf?.filter((each: Json) => each.type !== "null");
  return kinds?.length === 1 ? resolved(openapi, kinds[0]) : schema;
}

function resolved(openapi: Json, schema: Json): Json {
  if (!schema.$ref) return schema;
  return openapi.components.schemas[schema.$ref.split("/").at(-1)];
}
