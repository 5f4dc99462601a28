/**
 * Writes src/generated/ from docs/openapi.json: shapes, where each call is, and the version.
 *
 * A request may say `undefined` for what it leaves out; an answer never does.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

interface Schema {
  $ref?: string;
  type?: string;
  enum?: string[];
  const?: string;
  anyOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | boolean;
  description?: string;
}

interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  schema: Schema;
  description?: string;
}

interface Content {
  content?: Record<string, { schema: Schema }>;
}

interface Operation {
  operationId: string;
  security?: unknown[];
  parameters?: Parameter[];
  requestBody?: Content;
  responses: Record<string, Content>;
}

interface Document {
  info: { version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

/** Second addresses of calls that have a first one. */
const ALIASES = new Set(["getBuildByPost", "listVMsUnversioned", "getFunctionBuildLogs"]);

interface Call {
  path: string;
  method: string;
  operation: Operation;
}

const root = new URL("../../../", import.meta.url);
const document: Document = JSON.parse(readFileSync(new URL("docs/openapi.json", root), "utf8"));
const schemas = document.components.schemas;
const calls = Object.entries(document.paths)
  .flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): Call => ({ path, method, operation })),
  )
  .filter(({ operation }) => operation.security && !ALIASES.has(operation.operationId));
const requests = reached(calls.map(({ operation }) => bodyOf(operation)));
const answers = reached([
  { $ref: "#/components/schemas/Problem" },
  ...calls.map(({ operation }) => answerOf(operation)),
  ...calls.flatMap(({ operation }) => operation.parameters ?? []).map((each) => each.schema),
]);

function main(): void {
  const used = Object.entries(schemas).filter(([name]) => requests.has(name) || answers.has(name));
  write("shapes", [
    ...used.map(([name, schema]) => declare(name, schema)),
    ...calls.map(({ operation }) => declareQuery(operation)),
  ]);
  write("calls", [
    'import type * as shapes from "./shapes.js";\n',
    `export const version = ${JSON.stringify(document.info.version)};\n`,
    "/** What each call takes and answers. */\nexport interface Operations {",
    ...calls.map(({ operation }) => declareOperation(operation)),
    "}\n\n/** Method and path of each call. */\nexport const routes = {",
    ...calls.map(
      ({ path, method, operation }) =>
        `  ${operation.operationId}: "${method.toUpperCase()} ${path}",`,
    ),
    "} as const satisfies Record<keyof Operations, string>;\n",
    "/** What each call may be given in its query or its body. */\nexport const fields = {",
    ...calls.map(({ operation }) => `  ${operation.operationId}: "${fieldsOf(operation)}",`),
    "} as const satisfies Record<keyof Operations, string>;\n",
  ]);
}

function write(name: string, parts: string[]): void {
  const head = "// Made by tools/generate.ts from docs/openapi.json. Do not edit.\n";
  const folder = new URL("../src/generated/", import.meta.url);
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL(`${name}.ts`, folder), [head, ...parts.filter(Boolean)].join("\n"));
}

/** Returns the names of all that these schemas lead to. */
function reached(from: (Schema | undefined)[], found = new Set<string>()): Set<string> {
  for (const schema of from) {
    if (!schema) continue;
    const name = referenced(schema);
    const inner = [
      ...Object.values(schema.properties ?? {}),
      ...(schema.anyOf ?? []),
      schema.items,
    ];
    if (name && !found.has(name)) inner.push(schemas[name]);
    if (name) found.add(name);
    reached(inner, found);
  }
  return found;
}

function bodyOf(operation: Operation): Schema | undefined {
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  return body?.anyOf?.find((each) => each.type !== "null") ?? body;
}

/** Returns the fields of the form that a call takes besides JSON. */
function formOf(operation: Operation): Record<string, Schema> {
  return operation.requestBody?.content?.["multipart/form-data"]?.schema.properties ?? {};
}

/** Returns the names of what a call may be given. */
function fieldsOf(operation: Operation): string {
  const query = (operation.parameters ?? []).filter((each) => each.in === "query");
  const body = bodyOf(operation);
  const shape = body && (schemas[referenced(body) ?? ""] ?? body);
  const names = [...Object.keys(shape?.properties ?? {}), ...Object.keys(formOf(operation))];
  return [...new Set([...query.map((each) => each.name), ...names])].join(" ");
}

function answerOf(operation: Operation): Schema {
  const { content = {} } = operation.responses["200"] ?? operation.responses["202"] ?? {};
  const answer = content["application/json"]?.schema;
  if (answer) return answer;
  if (!content["*/*"]) throw new Error(`${operation.operationId} has no answer in JSON`);
  return {};
}

function referenced(schema: Schema): string | undefined {
  return schema.$ref?.split("/").at(-1);
}

function declare(name: string, schema: Schema): string {
  const said = comment(schema.description, "");
  if (!schema.properties) return `${said}export type ${name} = ${typeOf(schema)};\n`;
  const required = new Set(schema.required);
  const fields = Object.entries(schema.properties).map(([field, inner]) =>
    member(field, inner, required.has(field), requests.has(name)),
  );
  return `${said}export interface ${name} {\n${fields.join("\n")}\n}\n`;
}

function declareQuery(operation: Operation): string {
  const fields = (operation.parameters ?? [])
    .filter((parameter) => parameter.in === "query")
    .map((each) =>
      member(each.name, { ...each.schema, ...described(each) }, !!each.required, true),
    );
  if (fields.length === 0) return "";
  return `/** What ${operation.operationId} is asked. */\nexport interface ${queryName(operation)} {\n${fields.join("\n")}\n}\n`;
}

function described(parameter: Parameter): { description?: string } {
  return parameter.description ? { description: parameter.description } : {};
}

function queryName(operation: Operation): string {
  return `${operation.operationId.replace(/^./, (first) => first.toUpperCase())}Query`;
}

function declareOperation(operation: Operation): string {
  const parameters = operation.parameters ?? [];
  const path = parameters.filter((each) => each.in === "path");
  const body = bodyOf(operation);
  const parts = [
    path.length && `path: { ${path.map((each) => `${each.name}: string`).join("; ")} }`,
    parameters.some((each) => each.in === "query") && `query: shapes.${queryName(operation)}`,
    body && `body: ${shapeOf(body)}`,
    `answer: ${shapeOf(answerOf(operation))}`,
  ];
  return `  ${operation.operationId}: { ${parts.filter(Boolean).join("; ")} };`;
}

function shapeOf(schema: Schema): string {
  return referenced(schema) ? `shapes.${typeOf(schema)}` : typeOf(schema);
}

function member(name: string, schema: Schema, required: boolean, request: boolean): string {
  const type = typeOf(schema);
  const optional = required ? "" : "?";
  const absent = !required && request ? " | undefined" : "";
  return `${comment(schema.description, "  ")}  ${name}${optional}: ${type}${absent};`;
}

function typeOf(schema: Schema): string {
  const name = referenced(schema);
  if (name) return name;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  switch (schema.type) {
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `${grouped(typeOf(schema.items ?? {}))}[]`;
    case "object":
      if (schema.properties) return inline(schema, schema.properties);
      return `Record<string, ${typeof schema.additionalProperties === "object" ? typeOf(schema.additionalProperties) : "unknown"}>`;
    default:
      return "unknown";
  }
}

/** Returns the type of an object that has no name, of which a request may say more where it says so. */
function inline(schema: Schema, properties: Record<string, Schema>): string {
  const required = new Set(schema.required);
  const fields = Object.entries(properties).map(([name, inner]) =>
    required.has(name) ? `${name}: ${typeOf(inner)}` : `${name}?: ${typeOf(inner)} | undefined`,
  );
  if (schema.additionalProperties) fields.push("[name: string]: unknown");
  return `{ ${fields.join("; ")} }`;
}

function grouped(type: string): string {
  return type.includes("|") ? `(${type})` : type;
}

function comment(text: string | undefined, indent: string): string {
  return text ? `${indent}/** ${text.replaceAll("*/", "*\\/")} */\n` : "";
}

main();
