/** Greets: on requests to the function's URL, and in answer to events. */
import type { Context, Event } from "@cakework/functions";

export default {
  fetch(request: Request): Response {
    const name = new URL(request.url).searchParams.get("name");
    return Response.json(greeting(name ?? "world"));
  },

  event(event: Event<{ name?: string }>, ctx: Context) {
    ctx.log.info(`attempt ${ctx.attempt} of ${ctx.invocationId}`);
    return greeting(event.data?.name ?? "world");
  },
};

function greeting(name: string) {
  return { hello: name };
}
