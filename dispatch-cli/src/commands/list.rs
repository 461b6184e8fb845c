//! `dispatch list`.

use clap::{Args, ValueEnum};
use dispatch_core::Registry;
use serde_json::{Map, Value, json};

use crate::{
    args::Global,
    failure::Result,
    output::{print, print_json, table},
};

/// List the components of this build
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
    /// One JSON object: names and summaries.
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
    fn entries(self, registry: &Registry, schema: &Value) -> Vec<(String, String)> {
        let owned = |(name, summary): (&str, &str)| (name.to_owned(), summary.to_owned());
        match self {
            Self::Sources => registry.sources().map(owned).collect(),
            Self::Stores => registry.stores().map(owned).collect(),
            Self::Sinks => {
                let mut sinks: Vec<_> = registry.sinks().map(owned).collect();
                // Those that hold others are the engine's own and in no registry.
                for schema in schema
                    .pointer("/$defs/sink/anyOf")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
                    if sinks.iter().all(|(name, _)| name != text("title")) {
                        sinks.push((text("title").to_owned(), text("description").to_owned()));
                    }
                }
                sinks
            }
            Self::Layers => {
                let layers = schema
                    .pointer("/properties/layers/properties")
                    .and_then(Value::as_object);
                let own: Vec<_> = registry.layers().map(owned).collect();
                let line = |(name, schema): (&String, &Value)| match own.iter().find(|(own, _)| own == name) {
                    Some(entry) => entry.clone(),
                    None => {
                        let words = schema.get("description").and_then(Value::as_str).unwrap_or_default();
                        (name.clone(), words.lines().collect::<Vec<_>>().join(" "))
                    }
                };
                layers.into_iter().flatten().map(line).collect()
            }
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
                let entries = kind.entries(registry, &schema);
                let entry = |(name, summary)| json!({ "name": name, "summary": summary });
                all.insert(kind.name().to_owned(), entries.into_iter().map(entry).collect());
            }
            print_json(&all)?;
            return Ok(0);
        }
        let mut text = String::new();
        for kind in &kinds {
            let rows: Vec<_> = kind
                .entries(registry, &schema)
                .into_iter()
                .map(|(name, summary)| vec![format!("  {name}"), summary])
                .collect();
            text.push_str(&format!("{}\n{}\n", kind.name(), table(&rows)));
        }
        print(text.trim_end())?;
        Ok(0)
    }
}
