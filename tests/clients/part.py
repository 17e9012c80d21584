"""What the actor says to the clients: what a gpt-oss model would, where ossia-mini is too small.

In: the prompt's text. Out: harmony text. It says in its answers whether its thinking before a call came back to it.
"""

import json
import re

from tests.support.turns import call, final, last_tool, last_user, think

BEFORE_A_CALL = "I had better ask a tool about this (4711)."
SHELLS = {  # the tools of Codex and Claude Code that run a command, and their arguments
    "Bash": lambda command: {"command": command},
    "shell": lambda command: {"command": ["bash", "-lc", command]},
    "shell_command": lambda command: {"command": command},
    "exec_command": lambda command: {"cmd": command},
}


def part(prompt: str) -> str:
    said = last_tool(prompt)
    if said is not None:
        kept = "kept" if f"<|channel|>analysis<|message|>{BEFORE_A_CALL}<|end|>" in prompt else "lost"
        return think("The tool has answered.") + final(f"The tool says {said.strip()} (thinking {kept})")
    asked = last_user(prompt)
    if "# Response Formats" in prompt:
        return think("They want JSON.") + final(json.dumps({"answer": solve(asked)}))
    if "type json_tool_call = " in prompt:  # litellm asks for JSON by a tool, where it does not know the model
        return think("They want JSON.") + call("json_tool_call", json.dumps({"answer": solve(asked)}))
    if "get_weather" in prompt and re.search("weather|Paris", asked):
        return think(BEFORE_A_CALL) + call("get_weather", '{"city":"Paris"}')
    if command := re.search(r"Run this command: (.*)", asked):
        name = next(each for each in SHELLS if f"type {each} = " in prompt)
        return think(BEFORE_A_CALL) + call(name, json.dumps(SHELLS[name](command[1])))
    return think("Adding two numbers is easy.") + final(f"{solve(asked)} it is.")


def solve(asked: str) -> int:
    found = re.search(r"(\d+) \+ (\d+)", asked)
    return int(found[1]) + int(found[2]) if found else 0
