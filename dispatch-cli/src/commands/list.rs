//! `dispatch list`.

use clap::{Args, ValueEnum};
use dispatch_core::{Component, Registry, config::Stability};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    failure::Result,
    global::Global,
    output::{print, print_json, table},
};

/// List the components of this build, and how stable each is
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this kind
    kind: Option<Kind>,
    /// How to print them
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "DISPATCH_LIST_FORMAT",
        hide_env_values = true
    )]
    format: Format,
}

/// How components are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object: names, how stable they are, and summaries.
    Json,
    /// The JSON Schema of one kind, or of whole files.
    Jsonschema,
}

/// A kind of component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Sources,
    Sinks,
    Stores,
    Layers,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Sinks => "sinks",
            Self::Stores => "stores",
            Self::Layers => "layers",
        }
    }

    /// The JSON Schema of one such component, or of all layers, cut out of that of a whole file.
    fn schema(self, whole: &Value) -> Value {
        let reference = match self {
            Self::Sources => json!({ "$ref": "#/$defs/source" }),
            Self::Sinks => json!({ "$ref": "#/$defs/sink" }),
            Self::Stores => json!({ "$ref": "#/$defs/store" }),
            Self::Layers => whole["properties"]["layers"].clone(),
        };
        let mut schema = Map::new();
        schema.insert("$schema".to_owned(), whole["$schema"].clone());
        schema.extend(reference.as_object().cloned().unwrap_or_default());
        schema.insert("$defs".to_owned(), whole["$defs"].clone());
        Value::Object(schema)
    }

    /// Names with one line each.
    fn entries(self, registry: &Registry, schema: &Value) -> Vec<Entry> {
        match self {
            Self::Sources => registry.sources().map(Entry::of).collect(),
            Self::Stores => registry.stores().map(Entry::of).collect(),
            Self::Sinks => {
                let mut sinks: Vec<_> = registry.sinks().map(Entry::of).collect();
                // Those that hold others are the engine's own and in no registry.
                for schema in schema
                    .pointer("/$defs/sink/anyOf")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
                    if sinks.iter().all(|sink| sink.name != text("title")) {
                        sinks.push(Entry::own(text("title"), text("description")));
                    }
                }
                sinks
            }
            Self::Layers => {
                let layers = schema
                    .pointer("/properties/layers/properties")
                    .and_then(Value::as_object);
                let line = |(name, schema): (&String, &Value)| match registry.layers().find(|own| own.name == name) {
                    Some(added) => Entry::of(added),
                    None => {
                        let words = schema.get("description").and_then(Value::as_str).unwrap_or_default();
                        Entry::own(name, &words.lines().collect::<Vec<_>>().join(" "))
                    }
                };
                layers.into_iter().flatten().map(line).collect()
            }
        }
    }
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    stability: Stability,
    summary: String,
}

impl Entry {
    fn of(component: Component) -> Self {
        Self {
            name: component.name.to_owned(),
            stability: component.stability,
            summary: component.summary.to_owned(),
        }
    }

    /// One of the engine's own, which no registry holds.
    fn own(name: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            stability: Stability::Stable,
            summary: summary.to_owned(),
        }
    }
}

impl List {
    pub(super) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let schema = dispatch_core::config::schema(registry);
        let kinds = match self.kind {
            Some(kind) => vec![kind],
            None => vec![Kind::Sources, Kind::Layers, Kind::Sinks, Kind::Stores],
        };
        if self.format == Format::Jsonschema {
            print_json(&self.kind.map_or_else(|| schema.clone(), |kind| kind.schema(&schema)))?;
            return Ok(0);
        }
        if global.json || self.format == Format::Json {
            let mut all = Map::new();
            for kind in kinds {
                all.insert(kind.name().to_owned(), json!(kind.entries(registry, &schema)));
            }
            print_json(&all)?;
            return Ok(0);
        }
        let mut text = String::new();
        for kind in &kinds {
            let rows: Vec<_> = kind
                .entries(registry, &schema)
                .into_iter()
                .map(|entry| {
                    vec![
                        format!("  {}", entry.name),
                        entry.stability.name().to_owned(),
                        entry.summary,
                    ]
                })
                .collect();
            text.push_str(&format!("{}\n{}\n", kind.name(), table(&rows)));
        }
        print(text.trim_end())?;
        Ok(0)
    }
}
