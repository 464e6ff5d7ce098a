"""docs/openapi.yaml is a valid description, says what the routes and messages say, and is what the daemon answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate

from daemon import CHECKOUT, Daemon
from isolation import Place
from omega_sessiond import __version__, errors, messages
from omega_sessiond.errors import OmegaError
from omega_sessiond.routes import ROUTES, Route

FILE = CHECKOUT / "docs" / "openapi.yaml"

OUTSIDE_HTTP = {"config_error", "already_running", "runtime_dir_error", "daemon_unreachable", "protocol_error", "error"}
"""Codes that never cross the API: of starting, of the client, of the wire to hosts."""


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(FILE.read_text())


def _operation(document: Any, route: Route) -> Any:
    return document["paths"][route.path][route.method.lower()]


def _bare(schema: Any) -> Any:
    """A schema without what is for readers alone."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key not in ("title", "description")}
    if isinstance(schema, list):
        return [_bare(value) for value in schema]
    return schema


def _schemas(*kinds: type[Any]) -> Any:
    return msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")[1]


def test_description_is_valid(document: Any) -> None:
    """It is OpenAPI, of this version of the program."""
    validate(document)
    assert document["info"]["version"] == __version__


def test_every_route_is_described_and_no_other(document: Any) -> None:
    """The paths and methods are those of the table."""
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_parameters_and_body(document: Any, route: Route) -> None:
    """Query parameters with their schemas, path parameters, and the body's struct are the route's own."""
    operation = _operation(document, route)
    parameters = operation.get("parameters", [])
    query = {found["name"]: _bare(found["schema"]) for found in parameters if found.get("in") == "query"}
    assert query == _bare(_schemas(route.query)[route.query.__name__]["properties"])
    in_path = {found["$ref"].rpartition("/")[2] for found in parameters if "$ref" in found}
    assert in_path == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
    if route.body is None:
        assert "requestBody" not in operation
    else:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{route.body.__name__}"}
        assert operation["requestBody"]["required"] is not route.body_is_optional
    assert operation["responses"]["default"] == {"$ref": "#/components/responses/Failure"}


def test_schemas_are_those_of_the_messages(document: Any) -> None:
    """Each described message has the fields, types and bounds of its struct."""
    described = document["components"]["schemas"]
    structs = {name: kind for name in described if isinstance(kind := getattr(messages, name, None), type)}
    assert set(described) - set(structs) == {"Error"}
    for name, expected in _schemas(*structs.values()).items():
        found = dict(described[name])
        if name == "Event":
            continue  # the union of all kinds; see below
        if issubclass(structs[name], messages.Event):
            # The journal adds the id, and the stream of one execution the whole of it to its last line.
            assert found["properties"]["id"] == {"type": "integer"}
            found["properties"] = {key: value for key, value in found["properties"].items() if key != "id"}
            found["required"] = [key for key in found["required"] if key != "id"]
            found["properties"].pop("execution", None)
        assert _bare(found) == _bare(expected), name


def test_every_kind_of_event_is_described(document: Any) -> None:
    """The union of events holds every kind there is, found by its tag."""
    schemas = document["components"]["schemas"]
    kinds = {
        kind.__name__
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag_field == "kind"
    } - {"Event"}
    union = {found["$ref"].rpartition("/")[2] for found in schemas["Event"]["oneOf"]}
    assert union == kinds
    mapping = schemas["Event"]["discriminator"]["mapping"]
    assert {key: ref.rpartition("/")[2] for key, ref in mapping.items()} == {
        schemas[name]["properties"]["kind"]["enum"][0]: name for name in kinds
    }


def test_every_error_code_is_described(document: Any) -> None:
    """The codes are those that the tree of errors gives to HTTP."""

    def codes(kind: type[OmegaError]) -> set[str]:
        # Clients have errors of their own.
        ours = (child for child in kind.__subclasses__() if child.__module__ == errors.__name__)
        return {kind.code}.union(*map(codes, ours))

    assert set(document["components"]["schemas"]["Error"]["properties"]["code"]["enum"]) == (
        codes(errors.OmegaError) - OUTSIDE_HTTP
    )


def test_api_md_names_every_route() -> None:
    """The page for readers leaves out no route and no field of a session or an execution."""
    text = (Path(FILE).parent / "API.md").read_text()
    for route in ROUTES:
        last = (
            route.path.replace("{name}", "NAME")
            .replace("{id}", "ID")
            .replace("{n}", "N")
            .replace("{snapshot}", "SNAPSHOT")
        )
        assert last in text or f"/{last.rpartition('/')[2]}`" in text, route.path
    for kind in (messages.Session, messages.Execution, messages.ExecuteRequest):
        for field in kind.__struct_fields__:
            assert field in text, field


def test_daemon_answers_as_described(place: Place, document: Any) -> None:
    """Replies of the real daemon, errors and every event of a small life validate against the description."""

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(value)

    with Daemon(place) as daemon:
        check("Health", daemon.get("/api/health").json)
        check("Server", daemon.get("/api/server").json)
        for engine in daemon.get("/api/engines").json:
            check("Engine", engine)
        created = daemon.post("/api/sessions", {"name": "work", "labels": {"for": "test"}})
        assert created.status == 201
        assert created.headers["Location"] == "/api/sessions/work"
        check("Session", created.json)
        check("Execution", daemon.execute("work", "print('hello'); 6 * 7"))
        shown = (
            "class Shown:\n    def _repr_html_(self): return 'x'\n    def _repr_json_(self): return {'a': 1}\nShown()"
        )
        rich = daemon.execute("work", shown)
        check("Execution", rich)
        assert [part["mime"] for part in rich["data"]] == ["text/html", "application/json"]
        failed = daemon.execute("work", "1/0")
        check("Execution", failed)
        check("Session", daemon.get("/api/sessions/work").json)
        for session in daemon.get("/api/sessions").json:
            check("Session", session)
        check("Session", daemon.request("PATCH", "/api/sessions/work", {"labels": {}}).json)
        path = f"/api/sessions/work/executions/{failed['id']}"
        check("Execution", daemon.get(path).json)
        check("OutputPiece", daemon.get(f"{path}/output").json)
        check("OutputMatches", daemon.get(f"{path}/output?find=Zero").json)
        for execution in daemon.get("/api/sessions/work/executions").json:
            check("Execution", execution)
        check("CompleteReply", daemon.post("/api/sessions/work/complete", {"code": "pri"}).json)
        check("InspectReply", daemon.post("/api/sessions/work/inspect", {"code": "print"}).json)
        check("IsCompleteReply", daemon.post("/api/sessions/work/is_complete", {"code": "def f():"}).json)
        waiting = daemon.post("/api/sessions/work/execute", {"command": "input('name? ')", "wait_s": 0})
        assert waiting.status == 202
        check("Execution", waiting.json)
        check("Stopped", daemon.post("/api/sessions/work/interrupt").json)
        check("Error", daemon.get("/api/nope").json)
        check("Stopped", daemon.post("/api/sessions/work/kill").json)
        lines = daemon.get("/api/events?since=0&follow=0").text.splitlines()
        assert len(lines) > 5
        for line in lines:
            check("Event", json.loads(line))
        assert daemon.request("DELETE", "/api/sessions/work").status == 204
        for line in daemon.get("/api/events?since=0&follow=0").text.splitlines():
            check("Event", json.loads(line))
