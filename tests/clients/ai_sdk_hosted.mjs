// Vercel's AI SDK with the tools of OpenAI's platform, which the server runs: plain and streamed.
// In: base URL, model, speaker, key, home, the address of an MCP server. Out: lines of JSON {check, ok, detail}. Of
// ossia-mini only an answer is expected: it knows few of the questions.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText } from "ai";
import { acted, apiKey, baseURL, mcp, model, must, run, says } from "./checks.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL, apiKey });

/** The text, parts, sources and warnings of an answer, from one call or from a stream. */
async function ask(streamed, prompt, tools) {
  const asked = { model: openai.responses(model), prompt, tools, maxRetries: 0, maxOutputTokens: 2000, stopWhen: stepCountIs(4) };
  if (!streamed) {
    const answer = await generateText(asked);
    return { text: answer.text, content: answer.steps.flatMap((step) => step.content), sources: answer.steps.flatMap((step) => step.sources), messages: answer.response.messages };
  }
  const answer = streamText({ ...asked, onError: () => {} });
  for await (const part of answer.fullStream) if (part.type === "error") throw part.error;
  const steps = await answer.steps;
  return { text: await answer.text, content: steps.flatMap((step) => step.content), sources: steps.flatMap((step) => step.sources), messages: (await answer.response).messages };
}

const of = (answer, type) => answer.content.filter((part) => part.type === type);

const EVERYWHERE = {
  async "web search"(streamed) {
    const tools = { web_search: openai.tools.webSearch({ searchContextSize: "low" }) };
    const answer = await ask(streamed, "What is the colour of plums?", tools);
    says(answer.text, "Plums are blue");
    if (!acted) return;
    const [search, opened] = of(answer, "tool-result");
    must(search.output.action.query === "plums" && opened.output.action.type === "openPage", of(answer, "tool-result"));
    must(answer.sources.some((each) => each.url === opened.output.action.url), answer.sources);
  },

  async "code interpreter"(streamed) {
    const tools = { code_interpreter: openai.tools.codeInterpreter() };
    const prompt = acted ? "Run this Python: print(48213 * 7717)" : "What is 48213 * 7717?";
    const answer = await ask(streamed, prompt, tools);
    says(answer.text, "372059721");
    if (!acted) return;
    const [called] = of(answer, "tool-call");
    const [result] = of(answer, "tool-result");
    const code = typeof called.input === "string" ? JSON.parse(called.input).code : called.input.code;
    must(called.providerExecuted && code === "print(48213 * 7717)", called);
    must(result.output.outputs?.[0]?.logs === "372059721\n", result);
  },

  async "others are left out"(streamed) {
    const tools = { file_search: openai.tools.fileSearch({ vectorStoreIds: ["vs_1"] }), image_generation: openai.tools.imageGeneration() };
    says((await ask(streamed, "What is 12 + 30?", tools)).text, "42");
  },
};

const ACTED = {
  async mcp(streamed) {
    const tools = { mcp: openai.tools.mcp({ serverLabel: "shop", serverUrl: mcp, requireApproval: "never" }) };
    const answer = await ask(streamed, "Add 40 and 2 in the shop", tools);
    says(answer.text, "42");
    const [result] = of(answer, "tool-result").filter((each) => each.output?.type === "call");
    must(result.output.name === "add" && result.output.output === "42", of(answer, "tool-result"));
  },

  /** The client is asked, agrees, and the call runs in a second response. (With store: false the SDK sends no request.) */
  async "mcp, with approval"(streamed) {
    const tools = { mcp: openai.tools.mcp({ serverLabel: "shop", serverUrl: mcp, requireApproval: "always" }) };
    const messages = [{ role: "user", content: "Add 40 and 2 in the shop" }];
    const first = await ask(streamed, messages, tools);
    const [request] = of(first, "tool-approval-request");
    must(request && first.text === "", first.content);
    const agreed = { type: "tool-approval-response", approvalId: request.approvalId, approved: true, providerExecuted: true };
    const second = await ask(streamed, [...messages, ...first.messages, { role: "tool", content: [agreed] }], tools);
    says(second.text, "42");
    must(of(second, "tool-result").some((each) => each.output?.name === "add" && each.output?.output === "42"), second.content);
  },

  async "local shell"(streamed) {
    const ran = [];
    const execute = async ({ action }) => (ran.push(action.command), { output: "42\n" });
    const answer = await ask(streamed, "Run this command: echo $((6 * 7))", { shell: openai.tools.localShell({ execute }) });
    says(answer.text, "42");
    must(JSON.stringify(ran) === JSON.stringify([["bash", "-lc", "echo $((6 * 7))"]]), ran);
  },

  async shell(streamed) {
    const ran = [];
    const execute = async ({ action }) => {
      ran.push(...action.commands);
      return { output: [{ stdout: "42\n", stderr: "", outcome: { type: "exit", exitCode: 0 } }] };
    };
    const answer = await ask(streamed, "Run this command: echo $((6 * 7))", { shell: openai.tools.shell({ execute }) });
    says(answer.text, "42");
    must(JSON.stringify(ran) === JSON.stringify(["echo $((6 * 7))"]), ran);
  },

  async apply_patch(streamed) {
    const done = [];
    const execute = async ({ operation }) => (done.push(operation), { status: "completed", output: `Created ${operation.path}` });
    const answer = await ask(streamed, "Make the file notes.txt", { apply_patch: openai.tools.applyPatch({ execute }) });
    says(answer.text, "Created notes.txt");
    must(done.length === 1 && done[0].type === "create_file" && done[0].diff === "+made by a patch\n", done);
  },
};

const checks = {};
for (const [name, check] of Object.entries({ ...EVERYWHERE, ...(acted ? ACTED : {}) })) {
  checks[name] = () => check(false);
  checks[`${name}, streamed`] = () => check(true);
}
await run(checks);
