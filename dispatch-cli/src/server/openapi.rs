//! `/v1/openapi.json`: what the admin server understands.

use axum::Json;
use serde_json::{Map, Value, json};

const PIPELINE: (&str, &str) = ("pipeline", "only this pipeline");

const FILTERS: [(&str, &str); 8] = [
    PIPELINE,
    ("class", "only those whose last attempt had this class"),
    ("code", "only those whose last attempt had this code"),
    (
        "reason",
        "only those with this reason: permanent, exhausted, deadline or rejected",
    ),
    (
        "since",
        "given up on at this time or later: 2026-01-31T12:00:00Z, or 1h for an hour ago",
    ),
    ("until", "given up on before this time"),
    ("id", "only these numbers, with commas between them"),
    ("replayed", "true for those already replayed as well"),
];

fn parameters<'p>(all: impl IntoIterator<Item = (&'p str, &'p str)>) -> Value {
    let one = |(name, words): (&str, &str)| json!({ "name": name, "in": "query", "description": words, "schema": { "type": "string" } });
    all.into_iter().map(one).collect()
}

fn operation(summary: &str, parameters: Value) -> Value {
    json!({
        "summary": summary, "parameters": parameters,
        "responses": { "200": { "description": "done" }, "401": { "description": "the token is missing or wrong" } },
    })
}

pub(super) async fn document() -> Json<Value> {
    let none = || Value::Array(Vec::new());
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        paths.insert(path.to_owned(), json!({ (method): operation }));
    };
    for (path, summary) in [
        ("/livez", "200 as long as the process lives"),
        ("/readyz", "200 if every component is connected, else 503"),
        ("/healthz", "how each component is"),
        ("/metrics", "counters as OpenMetrics text"),
        ("/version", "version, commit and features"),
    ] {
        add(path, "get", operation(summary, none()));
    }
    add(
        "/v1/status",
        "get",
        operation("how each pipeline is", parameters([PIPELINE])),
    );
    for (path, summary, parameters) in [
        (
            "/debug/in-flight",
            "which messages are at the sinks; with [admin] debug = true",
            parameters([PIPELINE]),
        ),
        (
            "/debug/config",
            "what the pipelines run by, secrets hidden; with [admin] debug = true",
            parameters([PIPELINE]),
        ),
        (
            "/debug/tasks",
            "how busy the process's threads are; with [admin] debug = true",
            none(),
        ),
    ] {
        add(path, "get", operation(summary, parameters));
    }
    for (path, summary) in [
        ("/v1/pause", "stop receiving; what is started goes on"),
        ("/v1/resume", "receive again"),
        ("/v1/drain", "finish what is started and end"),
    ] {
        add(path, "post", operation(summary, parameters([PIPELINE])));
    }
    let page = [
        ("after", "only numbers above this one"),
        ("limit", "at most so many, up to 100"),
    ];
    add(
        "/v1/dlq",
        "get",
        operation(
            "dead letters, oldest first",
            parameters(FILTERS.into_iter().chain(page)),
        ),
    );
    let number = json!([{ "name": "number", "in": "path", "required": true, "schema": { "type": "integer" } }]);
    add("/v1/dlq/{number}", "get", operation("one dead letter", number));
    let dry_run = ("dry_run", "true to count only");
    let rate = ("rate", "at most so many, such as 50/s");
    let replay = parameters(FILTERS.into_iter().chain([rate, dry_run]));
    add(
        "/v1/dlq/replay",
        "post",
        operation("put dead letters back to work", replay),
    );
    let purge = parameters(FILTERS.into_iter().chain([dry_run]));
    add("/v1/dlq/purge", "post", operation("delete dead letters", purge));
    Json(json!({
        "openapi": "3.1.0",
        "info": { "title": "dispatch admin", "version": env!("CARGO_PKG_VERSION") },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "token": [] }, {}],
        "paths": paths,
    }))
}
