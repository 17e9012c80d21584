// Runs the checks of a JavaScript client and prints each one's outcome as a line of JSON.
export const [, , baseURL, model, speaker, apiKey, , mcp] = process.argv;
export const acted = speaker !== "mini";

export function must(condition, seen) {
  if (!condition) throw new Error(`seen: ${JSON.stringify(seen)}`);
}
/** The answer has the word. A model of 4 MB need not know it: of ossia-mini any words will do. */
export function says(text, word) {
  must(acted ? text?.includes(word) : text?.trim(), text);
}
export async function run(checks) {
  let failed = 0;
  for (const [check, body] of Object.entries(checks)) {
    try {
      const detail = await body();
      console.log(JSON.stringify({ check, ok: true, detail: detail === undefined ? "" : String(detail) }));
    } catch (error) {
      failed += 1;
      console.log(JSON.stringify({ check, ok: false, detail: String(error?.stack ?? error) }));
    }
  }
  process.exit(failed ? 1 : 0);
}
