//! The JSON Schema of a whole file, from the same structs that read it.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{dedupe::DedupeConfig, layers::LayersConfig, model::TopConfig, sinks::HOLDERS};
use crate::{Selector, registry::Registry};

/// The JSON Schema (draft 2020-12) of a configuration file, with every type that `registry` knows.
#[must_use]
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let sources: Vec<_> = registry
        .sources
        .iter()
        .map(|(name, factory)| typed(name, factory.summary, (factory.schema)(&mut generator).to_value()))
        .collect();
    let mut sinks: Vec<_> = registry
        .sinks
        .iter()
        .map(|(name, factory)| typed(name, factory.summary, (factory.schema)(&mut generator).to_value()))
        .collect();
    sinks.extend(holders(generator.subschema_for::<Selector>().to_value()));
    let stores: Vec<_> = registry
        .stores
        .iter()
        .map(|(name, factory)| typed(name, factory.summary, (factory.schema)(&mut generator).to_value()))
        .collect();

    let mut layers = LayersConfig::json_schema(&mut generator).to_value();
    for (name, factory) in &registry.layers {
        let schema = (factory.schema)(&mut generator).to_value();
        layers["properties"][*name] = schema;
    }
    let mut whole = TopConfig::json_schema(&mut generator).to_value();
    let properties = &mut whole["properties"];
    properties["source"] = json!({
        "description": "Where messages come from: one source, or several under names of their own.",
        "anyOf": [
            { "$ref": "#/$defs/source" },
            { "type": "object", "minProperties": 1, "not": { "required": ["type"] }, "additionalProperties": { "$ref": "#/$defs/source" } },
        ],
    });
    properties["layers"] = layers;
    properties["sink"] = json!({ "description": "Where messages go.", "$ref": "#/$defs/sink" });
    properties["then"] = json!({
        "description": "Further sinks in a row, each fed with the reply of the one before.",
        "type": "array", "items": { "$ref": "#/$defs/sink" },
    });
    let mut dedupe = DedupeConfig::json_schema(&mut generator).to_value();
    dedupe["properties"]["store"] = json!({
        "description": "Where what has been worked on is remembered; the pipeline's store by default.",
        "$ref": "#/$defs/store",
    });
    properties["dedupe"] = dedupe;
    properties["store"] = json!({
        "description": "Where dead letters, parked retries and the durable queue are kept; the SQLite file dispatch.db by default.",
        "$ref": "#/$defs/store",
    });
    let mut definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    definitions.insert("source".to_owned(), json!({ "anyOf": sources }));
    definitions.insert("sink".to_owned(), json!({ "anyOf": sinks }));
    definitions.insert("store".to_owned(), json!({ "anyOf": stores }));
    if let Value::Object(object) = &mut whole {
        object.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".to_owned(), json!("A dispatch pipeline"));
        object.insert("required".to_owned(), json!(["source", "sink"]));
        object.insert("$defs".to_owned(), Value::Object(definitions));
    }
    whole
}

/// A component's own schema with its `type` in it.
fn typed(name: &str, summary: &str, mut schema: Value) -> Value {
    if let Value::Object(object) = &mut schema {
        object.remove("$schema");
        object.insert("title".to_owned(), name.into());
        object.entry("description").or_insert_with(|| summary.into());
        object.insert("type".to_owned(), "object".into());
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        properties["type"] = json!({ "const": name });
        let required = object.entry("required").or_insert_with(|| json!([]));
        if let Value::Array(required) = required {
            required.insert(0, "type".into());
        }
    }
    schema
}

/// The sinks that hold others.
fn holders(selector: Value) -> Vec<Value> {
    let sink = || json!({ "$ref": "#/$defs/sink" });
    let holder = |(name, summary): (&str, &str)| {
        let (own, required) = match name {
            "route" => (
                json!({ "by": selector, "routes": { "type": "object", "additionalProperties": sink(), "minProperties": 1 }, "default": sink() }),
                json!(["by", "routes"]),
            ),
            _ => (
                json!({ "sinks": { "type": "array", "items": sink(), "minItems": 1 } }),
                json!(["sinks"]),
            ),
        };
        let schema = json!({ "properties": own, "required": required, "additionalProperties": false });
        typed(name, summary, schema)
    };
    HOLDERS.into_iter().map(holder).collect()
}
