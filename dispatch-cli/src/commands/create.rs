//! `dispatch create`: a pipeline file to begin with, from the schema.

use clap::Args;
use dispatch_core::Registry;
use serde_json::{Map, Value, json};

use crate::{
    failure::{Failure, Result},
    global::Global,
    output::{print, print_json},
};

/// Write a new pipeline file, such as: create file/rate_limit,retry/http
///
/// What must be set has a value to change; what may be set is commented out with its default.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// SOURCE/SINK or SOURCE/LAYER,LAYER/SINK; `dispatch list` shows the names
    #[arg(value_name = "EXPR")]
    expression: String,
    /// Leave out what need not be set
    #[arg(long)]
    small: bool,
}

/// Values that make sense to begin with, where the type of a field says too little.
const EXAMPLES: [(&str, &str); 11] = [
    ("channels", r#"["tasks"]"#),
    ("dsn", r#""postgres://dispatch@127.0.0.1/app""#),
    ("paths", r#"["in/*.ndjson"]"#),
    ("url", r#""http://127.0.0.1:8080/work""#),
    ("command", r#"["cat"]"#),
    ("queue", r#""jobs""#),
    (
        "queue_url",
        r#""https://sqs.eu-west-1.amazonaws.com/123456789012/jobs""#,
    ),
    ("every", r#""1m""#),
    ("by", r#""header:kind""#),
    ("routes", r#"{ a = { type = "stdout" } }"#),
    ("sinks", r#"[{ type = "stdout" }]"#),
];

/// Fields that a component cannot do without though each could be replaced by another.
const ONE_OF: [(&str, &str); 4] = [
    ("pg_notify", "channels"),
    ("pg_notify", "dsn"),
    ("schedule", "every"),
    ("sqs", "queue_url"),
];

/// Layers as they are usually wanted, where they have no default.
const LAYERS: [(&str, &str); 8] = [
    ("concurrency", "64"),
    ("rate_limit", r#""100/s""#),
    ("timeout", r#""30s""#),
    ("deadline", r#""10m""#),
    (
        "retry",
        r#"{ max_attempts = 10, backoff = { base = "1s", factor = 2, max = "5m", jitter = "full" } }"#,
    ),
    (
        "breaker",
        r#"{ failures = "50%", min_calls = 20, window = "30s", open = "30s", probes = 3 }"#,
    ),
    ("trace", "true"),
    ("catch_panic", "true"),
];

impl Create {
    pub(super) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let parts: Vec<_> = self.expression.split('/').map(str::trim).collect();
        let (source, layers, sink) = match parts.as_slice() {
            [source, sink] => (*source, "", *sink),
            [source, layers, sink] => (*source, *layers, *sink),
            _ => {
                return Err(Failure::usage(format!(
                    "\"{}\": write SOURCE/SINK or SOURCE/LAYER,LAYER/SINK, such as file/rate_limit,retry/http",
                    self.expression
                )));
            }
        };
        let schema = dispatch_core::config::schema(registry);
        let writer = Writer {
            schema: &schema,
            small: self.small,
        };
        let mut text = format!(
            "# {}: check it with `dispatch lint FILE`, run it with `dispatch run FILE`.\n\n",
            self.expression
        );
        text.push_str(&writer.component("source", source)?);
        text.push_str(&writer.layers(layers)?);
        text.push_str(&writer.component("sink", sink)?);
        if !self.small {
            text.push_str(&writer.component("store", "sqlite").unwrap_or_default());
        }
        if global.json {
            print_json(&json!({ "toml": text }))?;
        } else {
            print(text.trim_end())?;
        }
        Ok(0)
    }
}

struct Writer<'s> {
    schema: &'s Value,
    small: bool,
}

impl Writer<'_> {
    fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let all = self.schema.pointer(&format!("/$defs/{kind}/anyOf"));
        all.and_then(Value::as_array).into_iter().flatten()
    }

    fn find(&self, kind: &str, name: &str) -> Result<&Value> {
        let named = |schema: &&Value| schema.get("title").is_some_and(|title| title == name);
        self.all(kind).find(named).ok_or_else(|| {
            let names: Vec<_> = self
                .all(kind)
                .filter_map(|schema| schema.get("title")?.as_str())
                .collect();
            Failure::usage(format!(
                "there is no {kind} \"{name}\"; there are: {}",
                names.join(", ")
            ))
        })
    }

    /// `[kind]` with its fields, those that must be set first.
    fn component(&self, kind: &str, name: &str) -> Result<String> {
        let schema = self.find(kind, name)?;
        let mut text = format!("[{kind}]\ntype = \"{name}\"\n");
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required: Vec<_> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        let is_required =
            |field: &str| ONE_OF.contains(&(name, field)) || required.iter().any(|required| *required == field);
        let fields = properties.iter().filter(|(field, _)| *field != "type");
        let (must, may): (Vec<_>, Vec<_>) = fields.partition(|(field, _)| is_required(field));
        for (field, schema) in must {
            let value = EXAMPLES
                .iter()
                .find(|(own, _)| own == field)
                .map(|(_, value)| (*value).to_owned());
            let value = value.unwrap_or_else(|| self.value(schema));
            text.push_str(&format!("{}{field} = {value}\n", comment(schema)));
        }
        for (field, schema) in may.into_iter().filter(|_| !self.small) {
            text.push_str(&format!("\n{}# {field} = {}\n", comment(schema), self.value(schema)));
        }
        Ok(text + "\n")
    }

    /// `[layers]` with the layers named.
    fn layers(&self, names: &str) -> Result<String> {
        let names: Vec<_> = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        let known = self
            .schema
            .pointer("/properties/layers/properties")
            .and_then(Value::as_object);
        let mut text = String::new();
        for name in names {
            let Some(schema) = known.and_then(|known| known.get(name)) else {
                let known: Vec<_> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                return Err(Failure::usage(format!(
                    "there is no layer \"{name}\"; there are: {}",
                    known.join(", ")
                )));
            };
            let value = LAYERS
                .iter()
                .find(|(own, _)| *own == name)
                .map(|(_, value)| (*value).to_owned());
            let value = value.unwrap_or_else(|| self.value(schema));
            text.push_str(&format!("{}{name} = {value}\n", comment(schema)));
        }
        Ok(if text.is_empty() {
            text
        } else {
            format!("[layers]\n{text}\n")
        })
    }

    /// The default of a field, else an example, else something of its type.
    fn value(&self, schema: &Value) -> String {
        let resolved = resolve(schema, self.schema);
        let given = [schema, resolved].into_iter().find_map(|schema| {
            let default = schema.get("default").filter(|default| !default.is_null());
            default
                .or_else(|| schema.pointer("/examples/0"))
                .or_else(|| schema.pointer("/enum/0"))
        });
        if let Some(given) = given {
            return inline(given);
        }
        let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| resolved.get(key)?.as_array());
        if let Some(first) = alternatives.and_then(|all| all.iter().find(|one| one.get("type") != Some(&json!("null"))))
        {
            return self.value(first);
        }
        if let Some(fixed) = resolved.get("const") {
            return inline(fixed);
        }
        let kind = resolved.get("type");
        let kind = kind.and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
        match kind {
            Some("boolean") => "false",
            Some("integer" | "number") => "1",
            Some("array") => "[]",
            Some("object") => "{}",
            _ => "\"\"",
        }
        .to_owned()
    }
}

fn resolve<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let target = schema.get("$ref").and_then(Value::as_str);
    match target.and_then(|path| root.pointer(path.trim_start_matches('#'))) {
        Some(target) => resolve(target, root),
        None => schema,
    }
}

/// A value on one line of TOML.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let entries = table.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<_> = entries
                .map(|(key, value)| format!("{key} = {}", inline(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The field's description as comment lines.
fn comment(schema: &Value) -> String {
    let words = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    words.lines().map(|line| format!("# {}\n", line.trim())).collect()
}
