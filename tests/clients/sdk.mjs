// One call of the real TypeScript SDK: node sdk.mjs BASE_URL CASE. The outcome is JSON on stdout.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";

const [, , baseURL, name] = process.argv;
const client = new Anthropic({ baseURL, apiKey: "a-client-token" });
const ask = { model: "deepseek-v3.1", max_tokens: 100, messages: [{ role: "user", content: "Hi" }] };
const numbers = {
  type: "object",
  properties: { a: { type: "integer" }, b: { type: "integer" } },
  required: ["a", "b"],
};
const weather = {
  name: "get_weather",
  description: "The weather of a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const add = betaTool({
  name: "add",
  description: "Add two numbers.",
  inputSchema: numbers,
  run: async ({ a, b }) => String(a + b),
});
const addWithZod = betaZodTool({
  name: "add",
  description: "Add two numbers.",
  inputSchema: z.object({ a: z.number(), b: z.number() }),
  run: async ({ a, b }) => String(a + b),
});

const cases = {
  create: () => client.messages.create(ask),

  create_with_token: () =>
    new Anthropic({ baseURL: `${baseURL}/v1`, authToken: "a-client-token", apiKey: null }).messages.create(ask),

  events: async () => {
    const kinds = [];
    for await (const event of await client.messages.create({ ...ask, stream: true })) kinds.push(event.type);
    return kinds;
  },

  stream: async () => {
    const texts = [];
    const stream = client.messages
      .stream({
        ...ask,
        model: "deepseek-v3.2",
        max_tokens: 4000,
        thinking: { type: "enabled", budget_tokens: 2000 },
        tools: [weather],
      })
      .on("text", (text) => texts.push(text));
    return { message: await stream.finalMessage(), texts };
  },

  tool_runner: () => client.beta.messages.toolRunner({ ...ask, tools: [add] }),

  tool_runner_with_zod: () => client.beta.messages.toolRunner({ ...ask, tools: [addWithZod] }),

  tool_runner_that_streams: async () => {
    const texts = [];
    for await (const stream of client.beta.messages.toolRunner({ ...ask, tools: [add], stream: true })) {
      texts.push(await stream.finalMessage());
    }
    return texts;
  },

  parse: async () => {
    const person = z.object({ name: z.string(), age: z.number() });
    const format = zodOutputFormat(person);
    return (await client.messages.parse({ ...ask, output_config: { format } })).parsed_output;
  },

  count_tokens: () => client.messages.countTokens({ model: ask.model, messages: ask.messages }),

  models: async () => {
    const ids = [];
    for await (const model of client.models.list({ limit: 2 })) ids.push(model.id);
    return { ids, one: await client.models.retrieve("kimi-k2.5") };
  },

  leave: async () => {
    for await (const event of await client.messages.create({ ...ask, stream: true })) {
      if (event.type === "content_block_delta") break;
    }
    return "left";
  },

  bad_request: () => client.messages.create({ ...ask, max_tokens: -1 }),

  again: () => client.messages.create({ ...ask, model: "no-retries" }),
};

let outcome;
try {
  outcome = { ok: await cases[name]() };
} catch (error) {
  outcome = { error: { name: error?.constructor?.name, status: error?.status, message: String(error?.message) } };
}
console.log(JSON.stringify(outcome));
