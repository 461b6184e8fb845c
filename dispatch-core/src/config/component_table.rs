//! One component of a file: its `type`, what builds it, and where its fields stand.

use std::{collections::BTreeMap, ops::Range};

use toml::de::DeValue;

use super::{
    ConfigError, Diagnostic,
    diagnose::Sources,
    read::{Reader, Value, remove},
};
use crate::registry::{Builder, Factory};

/// Reads a component by its `type`: its type, what builds it, and where its fields stand.
pub(super) fn component<'i, C, T>(
    factories: &BTreeMap<&'static str, Factory<C, T>>,
    absent: &BTreeMap<&'static str, &'static str>,
    kind: &str,
    mut value: Value<'i>,
    reader: &mut Reader<'i>,
) -> Option<(String, Builder<C, T>, Places)> {
    let span = value.span();
    let places = Places::of(&value);
    let DeValue::Table(table) = value.get_mut() else {
        let diagnostic = reader
            .sources
            .error(span, format!("a {kind} is a table with a `type`"))
            .label("here");
        reader.error(diagnostic);
        return None;
    };
    let Some((_, named)) = remove(table, "type") else {
        let diagnostic = no_type(reader, kind, span, factories.keys().copied());
        reader.error(diagnostic);
        return None;
    };
    let Some(name) = named.get_ref().as_str().map(ToOwned::to_owned) else {
        let diagnostic = reader.sources.error(named.span(), "a `type` is a text").label("here");
        reader.error(diagnostic);
        return None;
    };
    let Some(factory) = factories.get(name.as_str()) else {
        let diagnostic = match (absent.get(name.as_str()), others_name(&name)) {
            (Some(remedy), _) => reader
                .sources
                .error(named.span(), format!("the {kind} `{name}` is not compiled in"))
                .label("here")
                .help(*remedy),
            (None, Some(ours)) => reader
                .sources
                .error(named.span(), format!("unknown {kind} `{name}`"))
                .label(format!("here it is called `{ours}`")),
            (None, None) => {
                let allowed: Vec<_> = factories.keys().copied().collect();
                reader.unknown(kind, &name, &allowed, named.span())
            }
        };
        reader.error(diagnostic);
        return None;
    };
    let builder = reader.read_with(value, factory.read)?;
    Some((name, builder, places))
}

/// What other tools call the same thing.
fn others_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "aws_sqs" => "sqs",
        "amqp_0_9" | "amqp_1" | "rabbitmq" => "amqp",
        "nats_jetstream" | "jetstream" | "nats_stream" => "nats",
        "http_server" | "http_client" | "webhook" => "http",
        "exec" | "subprocess" => "command",
        "cron" | "generate" | "interval" => "schedule",
        "postgresql" | "pg" => "postgres",
        "sqlite3" => "sqlite",
        "console" => "stdout",
        "switch" => "route",
        "broker" => "fanout",
        _ => return None,
    })
}

pub(super) fn no_type<'n>(
    reader: &Reader<'_>,
    kind: &str,
    span: Range<usize>,
    known: impl Iterator<Item = &'n str>,
) -> Diagnostic {
    let known = super::diagnose::any_of(known);
    reader
        .sources
        .error(span, format!("this {kind} has no `type`"))
        .label("in this table")
        .help(format!("one of {known}"))
}

/// Where a component's fields stand, for mistakes that only building finds.
#[derive(Debug, Clone)]
pub(super) struct Places {
    whole: Range<usize>,
    fields: Vec<(String, Range<usize>)>,
}

impl Places {
    pub(super) fn of(value: &Value<'_>) -> Self {
        let mut fields = Vec::new();
        collect(value, "", &mut fields);
        Self {
            whole: value.span(),
            fields,
        }
    }

    /// The place of the field, or of the nearest one that holds it.
    fn of_field(&self, field: Option<&str>) -> Range<usize> {
        let mut name = field.unwrap_or_default();
        loop {
            if let Some((_, span)) = self.fields.iter().find(|(own, _)| own == name) {
                return span.clone();
            }
            match name.rsplit_once('.') {
                Some((outer, _)) => name = outer,
                None => return self.whole.clone(),
            }
        }
    }

    pub(super) fn explain(&self, error: ConfigError, sources: &Sources) -> Diagnostic {
        let span = self.of_field(error.field.as_deref());
        sources.error(span, error.message).label("here").maybe_help(error.help)
    }
}

fn collect(value: &Value<'_>, prefix: &str, fields: &mut Vec<(String, Range<usize>)>) {
    let DeValue::Table(table) = value.get_ref() else { return };
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        collect(value, &format!("{name}."), fields);
        fields.push((name, value.span()));
    }
}
