// Vercel's AI SDK by three providers: OpenAI (Responses), OpenAI-compatible (Chat), Anthropic (Messages).
// In: base URL, model, speaker, key, home. Out: lines of JSON {check, ok, detail}, and an exit status.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const [baseURL, name, speaker, apiKey] = process.argv.slice(2);
const acted = speaker !== "mini";
const SUM = "What is 12 + 30?";
const PROVIDERS = {
  // forceReasoning, structuredOutputMode: the model's name does not tell the SDK that it can do these
  openai: [createOpenAI({ baseURL, apiKey }).responses(name), { openai: { forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" } }],
  compatible: [createOpenAICompatible({ name: "ossia", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true })(name), {}],
  anthropic: [createAnthropic({ baseURL, apiKey })(name), { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 }, structuredOutputMode: "outputFormat" } }],
};
const weather = tool({
  description: "Get the weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => ({ sky: "clear" }),
});

function must(condition, detail) {
  if (!condition) throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
}

/** The answer has the word. A model of 4 MB need not know it: of ossia-mini any words will do. */
function says(text, word) {
  must(acted ? text?.includes(word) : text?.trim(), text);
}

function asked(provider, more = {}) {
  const [model, providerOptions] = PROVIDERS[provider];
  return { model, providerOptions, prompt: SUM, maxRetries: 0, maxOutputTokens: 2000, ...more };
}

const EVERY = {
  async text(provider) {
    const answer = await generateText(asked(provider));
    says(answer.text, "42");
    must(answer.usage.inputTokens > 20, answer.usage);
    return answer.usage;
  },

  async "stream, reasoning"(provider) {
    const answer = streamText(asked(provider));
    const kinds = new Set();
    for await (const part of answer.fullStream) kinds.add(part.type);
    says(await answer.text, "42");
    must(!acted || (await answer.reasoningText)?.length > 0, [...kinds]); // ossia-mini does not always think
    if (provider === "anthropic" && (await answer.reasoning).length) {
      const [thought] = await answer.reasoning;
      must(thought.providerMetadata?.anthropic?.signature, thought); // C4: without it the block is dropped
    }
  },

  async tools(provider) {
    const more = { prompt: "What is the weather in Paris?", tools: { get_weather: weather }, stopWhen: stepCountIs(3) };
    const answer = await generateText(asked(provider, more));
    must(answer.steps.length > 1 && answer.text, answer.text);
    must(!acted || (answer.text.includes("clear") && answer.text.includes("(thinking kept)")), answer.text);
  },

  async structured(provider) {
    const output = Output.object({ schema: z.object({ answer: z.number().int() }) });
    const answer = await generateText(asked(provider, { output }));
    must(Number.isInteger(answer.output.answer), answer.text);
  },

  async errors(provider) {
    for (const [more, words] of [[{ prompt: "word and word again ".repeat(60000) }, /maximum context length is|prompt is too long/]]) {
      try {
        await generateText(asked(provider, { ...more, maxRetries: 2 }));
      } catch (error) {
        must(error.statusCode === 400 && words.test(error.message) && !error.isRetryable, String(error));
        continue;
      }
      throw new Error("an error was expected");
    }
  },
};

let failed = 0;
for (const provider of Object.keys(PROVIDERS)) {
  for (const [check, work] of Object.entries(EVERY)) {
    let ok = true, detail = "";
    try {
      detail = JSON.stringify((await work(provider)) ?? "");
    } catch (error) {
      [ok, detail, failed] = [false, String(error?.stack ?? error).slice(0, 1500), failed + 1];
    }
    console.log(JSON.stringify({ check: `${provider} ${check}`, ok, detail }));
  }
}
process.exit(failed ? 1 : 0);
