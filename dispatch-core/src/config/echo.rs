//! A file as it is meant: overrides laid over it, defaults filled in, secrets hidden.

use serde_json::{Map, Value};

use super::{Diagnostics, Override, document, plain::plain, read::Reader};

/// The file's text with `overrides` laid over it and every default that `schema` knows written out, as TOML.
/// Placeholders stay as they are written; secrets are `***`, and so are passwords in addresses.
///
/// # Errors
/// Mistakes of syntax. What only a reader finds is not looked for here.
pub fn echo(schema: &Value, name: &str, text: &str, overrides: &[Override]) -> Result<Value, Diagnostics> {
    let texts: Vec<_> = std::iter::once((name.to_owned(), text.to_owned()))
        .chain(overrides.iter().map(|over| (over.origin.clone(), over.line())))
        .collect();
    let mut reader = Reader::default();
    let parsed = document::parse(&texts, &mut reader);
    if !reader.diagnostics.is_empty() {
        return Err(Diagnostics(reader.diagnostics));
    }
    let mut value = plain(&parsed);
    if let Value::Object(top) = &mut value
        && !top.contains_key("store")
    {
        top.insert("store".to_owned(), serde_json::json!({ "type": "sqlite" }));
    }
    normalise(&mut value, schema, schema);
    drop_nulls(&mut value);
    Ok(value)
}

fn normalise(value: &mut Value, schema: &Value, root: &Value) {
    let schema = resolve(schema, root);
    if schema.get("writeOnly") == Some(&Value::Bool(true)) {
        *value = "***".into();
        return;
    }
    if let Some(branch) = branch(value, schema, root) {
        normalise(value, branch, root);
    }
    match value {
        Value::String(text) => hide_password(text),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| normalise(item, schema, root));
            }
        }
        Value::Object(entries) => normalise_table(entries, schema, root),
        _ => {}
    }
}

fn normalise_table(entries: &mut Map<String, Value>, schema: &Value, root: &Value) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    for (key, value) in entries.iter_mut() {
        if let Some(schema) = properties.and_then(|own| own.get(key)).or(others) {
            normalise(value, schema, root);
        }
    }
    for (key, schema) in properties.into_iter().flatten() {
        let default = resolve(schema, root).get("default").or_else(|| schema.get("default"));
        if let Some(default) = default.filter(|default| !default.is_null()) {
            entries.entry(key.clone()).or_insert_with(|| default.clone());
        }
    }
}

/// TOML has no null: what is not set is not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn resolve<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|path| root.pointer(path.trim_start_matches('#')));
    target.map_or(schema, |target| resolve(target, root))
}

/// The alternative that fits: by `type`, else the first of the value's kind.
fn branch<'s>(value: &Value, schema: &'s Value, root: &'s Value) -> Option<&'s Value> {
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()?;
    let mut resolved = alternatives
        .iter()
        .map(|alternative| (alternative, resolve(alternative, root)));
    let kind = value.get("type");
    resolved
        .clone()
        .find(|(_, schema)| {
            kind.is_some() && (schema.pointer("/properties/type/const") == kind || schema.get("anyOf").is_some())
        })
        .or_else(|| resolved.find(|(_, schema)| fits(value, schema, root)))
        .map(|(alternative, _)| alternative)
}

fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    let kind = schema.get("type").and_then(Value::as_str);
    let own = match value {
        Value::Object(_) => {
            (schema.get("properties").is_some() || kind == Some("object"))
                && schema.pointer("/properties/type").is_none()
        }
        Value::String(_) => kind == Some("string"),
        Value::Array(_) => kind == Some("array"),
        Value::Number(_) => matches!(kind, Some("integer" | "number")),
        Value::Bool(_) => kind == Some("boolean"),
        Value::Null => false,
    };
    own || branch(value, schema, root).is_some()
}

/// `scheme://user:password@host` without its password.
fn hide_password(text: &mut String) {
    let Some(start) = text.find("://").map(|at| at + 3) else {
        return;
    };
    let end = text[start..].find('/').map_or(text.len(), |at| start + at);
    let Some(at) = text[start..end].rfind('@').map(|at| start + at) else {
        return;
    };
    if let Some(colon) = text[start..at].find(':').map(|colon| start + colon) {
        text.replace_range(colon + 1..at, "***");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_hidden() {
        for (text, expected) in [
            ("postgres://me:secret@host:5432/db", "postgres://me:***@host:5432/db"),
            ("http://host/a@b:c", "http://host/a@b:c"),
            ("http://me@host", "http://me@host"),
            ("plain", "plain"),
        ] {
            let mut text = text.to_owned();
            hide_password(&mut text);
            assert_eq!(text, expected);
        }
    }
}
