"""The model and its names, in the fields where clients look for them."""

import pytest
from openai.types import Model

from ossia.server.settings import Settings
from tests.support.server import scripted

NAMES = ("gpt-oss-20b", "gpt-oss:20b", "org/gpt-oss-20b")
CONTEXT = ("max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens")


@pytest.mark.parametrize("name", ["script", *NAMES])
def test_A15_a_model_has_its_context_under_every_usual_name(name: str):
    with scripted(settings=Settings(names=NAMES)) as served:
        listed = {each["id"]: each for each in served.client.get("/v1/models").json()["data"]}
        one = served.client.get(f"/v1/models/{name}").json()
    assert listed[name] == one
    Model.model_validate(one)
    assert {one[field] for field in CONTEXT} == {3000}, "what an answer can use, not what the model could"


def test_A15_anthropics_clients_find_their_fields_too():
    with scripted(settings=Settings(names=NAMES)) as served:
        page = served.client.get("/v1/models", params={"limit": 20}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("script", NAMES[-1], False)
    for model in page["data"]:
        assert (model["type"], model["display_name"]) == ("model", model["id"])
        assert model["created_at"].endswith("Z")
