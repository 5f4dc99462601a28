// What any runtime must be able to do; its arguments are a server's address and a folder.

import process from "node:process";
import { CakeworkClient, NotFoundError } from "@cakework/client";
import { readDirectory } from "@cakework/client/node";

const [url, folder] = process.argv.slice(2);
const client = new CakeworkClient({ url, apiKey: "cw_test" });
const done = [(await client.getVm("x")).id];
try {
  await client.getVm("y");
} catch (error) {
  done.push(error instanceof NotFoundError ? error.code : String(error));
}
for await (const line of client.followLogs({ vmId: "z" })) {
  done.push(line.message);
  if (line.id === 2) break;
}
const nobody = new CakeworkClient({ url: "http://127.0.0.1:1", apiKey: "k", retries: 0 });
done.push((await nobody.getVm("x").catch((error) => error)).code);
const late = client.getVm("never", { timeout: 100 });
done.push((await late.catch((error) => error)).code);
done.push((await readDirectory(folder)).files.length > 0);
process.stdout.write(JSON.stringify(done));
