//! A file's text with what the command line and the environment lay over it, parsed and filled in.

use toml::de::{DeTable, DeValue};

use super::{
    interpolate::{Surroundings, fill},
    read::{Reader, Value},
};

/// One setting laid over the file: its dotted path, its value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Such as `layers.timeout`.
    pub path: String,
    /// A TOML value, or a text.
    pub value: String,
    /// Such as `--set` or the variable's name.
    pub origin: String,
}

impl Override {
    /// The setting as a line of TOML: what is no TOML value is a text.
    pub(super) fn line(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let value = if DeValue::parse(self.value.trim()).is_ok() {
            self.value.clone()
        } else {
            quoted(&self.value)
        };
        let bare = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let path: Vec<_> = self
            .path
            .split('.')
            .map(|part| if bare(part) { part.to_owned() } else { quoted(part) })
            .collect();
        format!("{} = {}", path.join("."), value)
    }
}

/// Parses each text in turn and lays the later ones over the first. Mistakes of syntax are noted.
pub(super) fn parse<'i>(texts: &'i [(String, String)], reader: &mut Reader<'i>) -> Value<'i> {
    let mut whole: Option<Value<'i>> = None;
    for (name, text) in texts {
        let start = reader.sources.add(name, text);
        let (mut value, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let diagnostic = reader
                .sources
                .error(span.start + start..span.end + start, error.message())
                .label("here");
            reader.error(diagnostic);
        }
        let mut table = value.get_mut().clone();
        if start > 0 {
            table = shift_table(table, start);
        }
        let span = value.span().start + start..value.span().end + start;
        match &mut whole {
            None => whole = Some(Value::new(span, DeValue::Table(table))),
            Some(whole) => lay_over(whole, Value::new(span, DeValue::Table(table))),
        }
    }
    whole.unwrap_or_else(|| Value::new(0..0, DeValue::Table(DeTable::new())))
}

fn shift_table<'i>(table: DeTable<'i>, by: usize) -> DeTable<'i> {
    let shift = |span: std::ops::Range<usize>| span.start + by..span.end + by;
    let entry = |(key, value): (toml::Spanned<_>, Value<'i>)| {
        let at = shift(key.span());
        (toml::Spanned::new(at, key.into_inner()), shift_value(value, by))
    };
    table.into_iter().map(entry).collect()
}

fn shift_value<'i>(value: Value<'i>, by: usize) -> Value<'i> {
    let span = value.span().start + by..value.span().end + by;
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|value| shift_value(value, by)).collect()),
        other => other,
    };
    Value::new(span, inner)
}

/// Tables join, anything else is replaced.
fn lay_over<'i>(under: &mut Value<'i>, over: Value<'i>) {
    match (under.get_mut(), over) {
        (DeValue::Table(below), over) if over.get_ref().is_table() => {
            let DeValue::Table(above) = over.into_inner() else {
                return;
            };
            for (key, value) in above {
                match below.get_mut(key.get_ref().as_ref()) {
                    Some(own) => lay_over(own, value),
                    None => drop(below.insert(key, value)),
                }
            }
        }
        (_, over) => *under = over,
    }
}

/// The texts of all strings with their placeholders filled, by their places; mistakes are noted.
pub(super) fn filled_texts(
    value: &Value<'_>,
    from: &Surroundings<'_>,
    reader: &mut Reader<'_>,
) -> Vec<(usize, String)> {
    let mut texts = Vec::new();
    walk(value, &mut |leaf, text| match fill(text, from) {
        Ok((filled, any)) if any || filled != text => texts.push((leaf.span().start, filled)),
        Ok(_) => {}
        Err(message) => {
            let diagnostic = reader.sources.error(leaf.span(), message).label("here");
            reader.diagnostics.push(diagnostic);
            // A stand-in that fits everywhere a text does.
            texts.push((leaf.span().start, String::new()));
        }
    });
    texts
}

fn walk(value: &Value<'_>, visit: &mut impl FnMut(&Value<'_>, &str)) {
    match value.get_ref() {
        DeValue::String(text) => visit(value, text),
        DeValue::Table(table) => table.values().for_each(|value| walk(value, visit)),
        DeValue::Array(array) => array.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// Puts the filled texts where they belong.
pub(super) fn put_texts<'i>(value: &mut Value<'i>, reader: &Reader<'i>) {
    let at = value.span().start;
    match value.get_mut() {
        DeValue::String(text) => {
            if let Some(filled) = reader.filled.get(&at) {
                *text = (*filled).into();
            }
        }
        DeValue::Table(table) => table.iter_mut().for_each(|(_, value)| put_texts(value, reader)),
        DeValue::Array(array) => array.iter_mut().for_each(|value| put_texts(value, reader)),
        _ => {}
    }
}
