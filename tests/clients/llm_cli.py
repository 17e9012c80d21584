"""llm, the command line: both APIs, streamed and not, tools, a schema, a conversation that goes on.

In: base URL, model, speaker, key, home. Out: lines of JSON (checks.py). Run by the environment's own Python.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from checks import Place, ran, run, says

FUNCTIONS = '''
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return '{"sky":"clear"}'
'''


def llm(place: Place, *words: str, user: str | None = None) -> str:
    with tempfile.TemporaryDirectory() as fresh:
        folder = Path(user or fresh)
        entry = {
            "model_name": place.model,
            "api_base": place.base_url,
            "api_key_name": "local",
            "reasoning": True,
            "supports_tools": True,
            "supports_schema": True,
        }
        models = [{"model_id": "chat", **entry}, {"model_id": "responses", "responses": True, **entry}]
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models), "utf-8")  # JSON is YAML
        (folder / "keys.json").write_text(json.dumps({"local": place.key}), "utf-8")
        environment = {**os.environ, "LLM_USER_PATH": str(folder), "HOME": str(folder)}
        program = Path(sys.executable).parent / "llm"
        done = ran([program, *words], environment)
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout.strip()


def text(place: Place, api: str):
    said = llm(place, "-m", api, "--no-stream", "-o", "temperature", "0", "What is 12 + 30?")
    says(place, said, "42")
    return said


def stream(place: Place, api: str):
    said = llm(place, "-m", api, "-o", "temperature", "0", "What is 12 + 30?")
    says(place, said, "42")
    return said


def tools(place: Place, api: str):
    said = llm(place, "-m", api, "-o", "temperature", "0", "--functions", FUNCTIONS, "What is the weather in Paris?")
    says(place, said, "clear")
    assert not place.acted or "(thinking kept)" in said, said
    return said


def schema(place: Place, api: str):
    said = llm(place, "-m", api, "-o", "temperature", "0", "-R", "--schema", "answer int", "What is 12 + 30?")
    assert isinstance(json.loads(said)["answer"], int), said
    return said


def goes_on(place: Place, api: str):
    with tempfile.TemporaryDirectory() as folder:
        llm(place, "-m", api, "-o", "temperature", "0", "What is 1 + 1?", user=folder)
        said = llm(place, "-c", "What is 12 + 30?", user=folder)
    says(place, said, "42")
    return said


if __name__ == "__main__":
    every = {"text": text, "stream": stream, "tools": tools, "structured": schema, "conversation": goes_on}
    run(
        {
            f"{api} {name}": (lambda place, check=check, api=api: check(place, api))
            for api in ("responses", "chat")
            for name, check in every.items()
        }
    )
