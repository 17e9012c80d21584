// The openai package (JavaScript): both APIs, streamed and not, tools, structured output.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { acted, apiKey, baseURL, model, must, run, says } from "./checks.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60000 });
const sum = "What is 12 + 30?";
const weather = "What is the weather in Paris?";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const tool = { type: "function", name: "get_weather", description: "Get the weather of a city.", parameters, strict: true };
const Solution = z.object({ answer: z.number().int() });
const kept = text => must(!acted || text.includes("(thinking kept)"), text);

await run({
  models: async () => {
    const found = [];
    for await (const each of client.models.list()) found.push(each.id);
    must(found.includes(model), found);
  },
  text: async () => {
    const r = await client.responses.create({ model, input: sum, temperature: 0 });
    says(r.output_text, "42");
    return r.output_text;
  },
  stream: async () => {
    const s = client.responses.stream({ model, input: sum, temperature: 0 });
    let text = "";
    s.on("response.output_text.delta", event => { text += event.delta; });
    const r = await s.finalResponse();
    says(text, "42");
    must(text === r.output_text, text);
  },
  tools: async () => {
    const input = [{ role: "user", content: weather }];
    const first = await client.responses.create({ model, input, tools: [tool], temperature: 0, store: false, include: ["reasoning.encrypted_content"] });
    const call = first.output.find(item => item.type === "function_call");
    must(call && JSON.parse(call.arguments).city === "Paris", first.output);
    input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: '{"sky":"clear"}' });
    const second = await client.responses.create({ model, input, tools: [tool], temperature: 0, store: false, include: ["reasoning.encrypted_content"] });
    says(second.output_text, "clear");
    kept(second.output_text);
    return second.output_text;
  },
  structured: async () => {
    const r = await client.responses.parse({ model, input: sum, temperature: 0, text: { format: zodTextFormat(Solution, "solution") } });
    must(Number.isInteger(r.output_parsed?.answer), r.output);
  },
  "chat text": async () => {
    const r = await client.chat.completions.create({ model, messages: [{ role: "user", content: sum }], temperature: 0 });
    says(r.choices[0].message.content, "42");
    must(r.choices[0].message.reasoning, r.choices);
  },
  "chat stream": async () => {
    const s = client.chat.completions.stream({ model, messages: [{ role: "user", content: sum }], temperature: 0, stream_options: { include_usage: true } });
    const text = await s.finalContent();
    says(text, "42");
    must((await s.totalUsage()).total_tokens > 0);
  },
  "chat runTools, reasoning dropped": async () => {
    const run = client.chat.completions.runTools({
      model, temperature: 0, messages: [{ role: "user", content: weather }],
      tools: [{ type: "function", function: { name: "get_weather", description: "Get the weather of a city.", parameters, parse: JSON.parse, function: ({ city }) => (city === "Paris" ? '{"sky":"clear"}' : "unknown") } }],
    });
    const text = await run.finalContent();
    says(text, "clear");
    kept(text);
  },
  "chat structured": async () => {
    const r = await client.chat.completions.parse({ model, temperature: 0, messages: [{ role: "user", content: sum }], response_format: zodResponseFormat(Solution, "solution") });
    must(Number.isInteger(r.choices[0].message.parsed?.answer), r.choices);
  },
});
