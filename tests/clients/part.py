"""What the actor says to the clients: what a gpt-oss model would, where ossia-mini is too small.

It also calls the server's own tools, and those that the client runs, if the request has them.
In: the prompt's text. Out: harmony text. It says in its answers whether its thinking before a call came back to it.
"""

import json
import re

from tests.support.turns import call, final, last_tool, last_user, think

BEFORE_A_CALL = "I had better ask a tool about this (4711)."
SHELLS = {  # functions of clients that run a command, and their arguments
    "Bash": lambda command: {"command": command},
    "shell": lambda command: {"commands": [command]},
    "local_shell": lambda command: {"command": ["bash", "-lc", command]},
    "shell_command": lambda command: {"command": command},
    "exec_command": lambda command: {"cmd": command},
}
ANALYSIS = "<|channel|>analysis"
LAST_RESULT = re.compile(r"<\|start\|>([\w.]+) to=assistant(?:(?!<\|start\|>).)*<\|start\|>assistant$", re.DOTALL)


def part(prompt: str) -> str:
    asked = last_user(prompt)
    if (tool_call := own_tool_call(prompt, asked)) is not None:
        return think(BEFORE_A_CALL) + tool_call
    said = last_tool(prompt)
    if said is not None:
        kept = "kept" if f"<|channel|>analysis<|message|>{BEFORE_A_CALL}<|end|>" in prompt else "lost"
        return think("The tool has answered.") + final(
            f"The tool says {said.strip()} (thinking {kept})" + citation(prompt)
        )
    if "# Response Formats" in prompt:
        return think("They want JSON.") + final(json.dumps({"answer": solve(asked)}))
    if "type json_tool_call = " in prompt:  # litellm asks for JSON by a tool, where it does not know the model
        return think("They want JSON.") + call("json_tool_call", json.dumps({"answer": solve(asked)}))
    if "get_weather" in prompt and re.search("weather|Paris", asked):
        return think(BEFORE_A_CALL) + call("get_weather", '{"city":"Paris"}')
    if made := re.search(r"Make the file (\S+)", asked):
        patch = f"*** Begin Patch\n*** Add File: {made[1]}\n+made by a patch\n*** End Patch\n"
        if "with a tool" in asked or "type apply_patch = " in prompt:
            return think(BEFORE_A_CALL) + call("apply_patch", json.dumps({"input": patch}))
        return think(BEFORE_A_CALL) + shell_call(prompt, f"apply_patch <<'EOF'\n{patch}EOF")
    if command := re.search(r"Run this command: (.*)", asked):
        return think(BEFORE_A_CALL) + shell_call(prompt, command[1])
    return think("Adding two numbers is easy.") + final(f"{solve(asked)} it is.")


def shell_call(prompt: str, command: str) -> str:
    name = next(each for each in SHELLS if f"type {each} = " in prompt)
    return call(name, json.dumps(SHELLS[name](command)))


def own_tool_call(prompt: str, asked: str) -> str | None:
    """A call of a tool that the server runs: the first, or the next after its result. None if there is none to make."""
    before = LAST_RESULT.search(prompt)
    if "\nnamespace browser {" in prompt and "colour of plums" in asked:
        match before[1] if before else None:
            case None:
                return f"{ANALYSIS} to=browser.search code<|message|>" + '{"query": "plums"}<|call|>'
            case "browser.search":
                return f"{ANALYSIS} to=browser.open code<|message|>" + '{"id": 0}<|call|>'
    if before:
        return None
    if "\n## python" in prompt and (code := re.search(r"Run this Python: (.*)", asked)):
        return f"{ANALYSIS} to=python code<|message|>{code[1]}<|call|>"
    if "\nnamespace container {" in prompt and (command := re.search(r"Run this command: (.*)", asked)):
        arguments = json.dumps({"cmd": ["bash", "-lc", command[1]]})
        return f"{ANALYSIS} to=container.exec code<|message|>{arguments}<|call|>"
    if "\nnamespace shop {" in prompt and "in the shop" in asked:
        return '<|channel|>commentary to=shop.add <|constrain|>json<|message|>{"a": 40, "b": 2}<|call|>'
    return None


def citation(prompt: str) -> str:
    """After a page was opened, a citation of its third line."""
    before = LAST_RESULT.search(prompt)
    return " Plums are blue【1†L3】." if before and before[1] == "browser.open" else ""


def solve(asked: str) -> int:
    found = re.search(r"(\d+) \+ (\d+)", asked)
    return int(found[1]) + int(found[2]) if found else 0
