// @openai/agents (JavaScript): its tool loop over both APIs, streamed and not, structured output.
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { acted, apiKey, baseURL, model, must, run, says } from "./checks.mjs";

setTracingDisabled(true);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60000 });
const weather = tool({
  name: "get_weather", description: "Get the weather of a city.", parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => (city === "Paris" ? '{"sky":"clear"}' : "unknown"),
});
const agent = (Kind, more = {}) => new Agent({ name: "a", model: new Kind(client, model), modelSettings: { temperature: 0 }, ...more });
const kept = text => must(!acted || text.includes("(thinking kept)"), text);

const checks = {};
for (const [api, Kind] of [["", OpenAIResponsesModel], ["chat ", OpenAIChatCompletionsModel]]) {
  checks[`${api}text`] = async () => {
    const { finalOutput } = await new Runner().run(agent(Kind), "What is 12 + 30?");
    says(finalOutput, "42");
    return finalOutput;
  };
  checks[`${api}stream`] = async () => {
    const s = await new Runner().run(agent(Kind), "What is 12 + 30?", { stream: true });
    let text = "";
    for await (const piece of s.toTextStream()) text += piece;
    await s.completed;
    says(text, "42");
    must(text === s.finalOutput, [text, s.finalOutput]);
  };
  checks[`${api}tools`] = async () => {
    const r = await new Runner().run(agent(Kind, { tools: [weather] }), "What is the weather in Paris?");
    must(r.newItems.some(item => item.type === "tool_call_output_item"), r.newItems);
    says(r.finalOutput, "clear");
    kept(r.finalOutput);
  };
  checks[`${api}tools, streamed`] = async () => {
    const s = await new Runner().run(agent(Kind, { tools: [weather] }), "What is the weather in Paris?", { stream: true });
    for await (const _ of s);
    await s.completed;
    says(s.finalOutput, "clear");
    kept(s.finalOutput);
  };
  checks[`${api}structured`] = async () => {
    const r = await new Runner().run(agent(Kind, { outputType: z.object({ answer: z.number().int() }) }), "What is 12 + 30?");
    must(Number.isInteger(r.finalOutput.answer), r.finalOutput);
  };
}
await run(checks);
